//! The tokenizer of OpenVPN's configuration syntax: lines, quoting, comments and inline blocks, nothing of meaning.
//!
//! It serves the server's config file as well as client-config-dir files and the files that client-connect hooks write.

use std::fmt;
use std::sync::Arc;

use tessera_proto::Secret;

use super::diagnostic::{Diagnostic, Place};

/// Longest directive line in bytes. OpenVPN stops at 256; long push lists in one line are the reason for more.
pub const MAX_LINE: usize = 8 * 1024;
/// Largest text in bytes: room for inline certificates and a large CRL, no room for a wrong file.
pub const MAX_TEXT: usize = 4 * 1024 * 1024;
/// Most tokens in a line with the name, as in OpenVPN.
pub const MAX_TOKENS: usize = 16;
/// Most findings that one text yields: a binary file should not print a book.
pub const MAX_DIAGNOSTICS: usize = 100;

/// One argument. Its text may be a secret (a pushed token), so it shows itself to nobody by accident.
#[derive(Clone)]
pub struct Arg {
    text: Secret<String>,
    place: Place,
}

impl Arg {
    /// An argument with its place.
    pub fn new(text: impl Into<String>, place: Place) -> Self {
        Self { text: Secret::new(text.into()), place }
    }

    /// The argument after unquoting.
    pub fn as_str(&self) -> &str {
        self.text.expose()
    }

    /// Where it was written.
    pub const fn place(&self) -> &Place {
        &self.place
    }
}

impl fmt::Debug for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arg({} bytes at {})", self.as_str().len(), self.place)
    }
}

/// One directive: its name, its arguments, and the body if it was written as `<name>…</name>`.
#[derive(Debug, Clone)]
pub struct Directive {
    /// The name, without leading dashes.
    pub name: String,
    /// The arguments after unquoting; none for an inline block.
    pub args: Vec<Arg>,
    /// The body of an inline block, with `\n` line ends and without the tags.
    pub inline: Option<Secret<String>>,
    /// Where the name was written.
    pub place: Place,
}

impl Directive {
    /// The text of argument `index`, counted from 0 after the name.
    pub fn arg(&self, index: usize) -> Option<&str> {
        self.args.get(index).map(Arg::as_str)
    }

    /// The place of argument `index`, or that of the directive if there is no such argument.
    pub fn arg_place(&self, index: usize) -> &Place {
        self.args.get(index).map_or(&self.place, Arg::place)
    }
}

/// Splits a text into directives. `source_name` is what places call the text.
///
/// CRLF line ends and a UTF-8 byte order mark are taken; comments may be in any encoding.
///
/// # Errors
/// All findings at once: open quotes, bad backslashes, NUL bytes, UTF-16, blocks without an end, sizes over the limits.
pub fn lex(source_name: &str, text: impl AsRef<[u8]>) -> Result<Vec<Directive>, Vec<Diagnostic>> {
    let source: Arc<str> = Arc::from(source_name);
    let text = text.as_ref();
    let start = Place::file(&source, 1, 1);
    if text.len() > MAX_TEXT {
        let message = format!("the text has {} bytes, the limit is {MAX_TEXT}", text.len());
        return Err(vec![Diagnostic::error(&start, message).hint("is this really a configuration file?")]);
    }
    if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        let problem = Diagnostic::error(&start, "the text is UTF-16").hint("save the file as UTF-8");
        return Err(vec![problem]);
    }
    let text = text.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(text);
    Lexer { source, directives: Vec::new(), problems: Vec::new(), block: None }.run(text)
}

/// Splits one command as hooks name it (`"/etc/openvpn/auth.sh --db 'my users'"`), by the same quoting rules.
///
/// # Errors
/// What is wrong with the quoting, in one line.
pub fn split_command(command: &str) -> Result<Vec<String>, String> {
    let tokens = tokens(command).map_err(|(_, message)| message)?;
    Ok(tokens.into_iter().map(|(_, token)| token).collect())
}

/// Writes `text` so that [`lex`] reads it back as one argument; `None` if that cannot be (line ends, NUL).
pub fn quote(text: &str) -> Option<String> {
    if text.contains(['\n', '\r', '\0']) {
        return None;
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,=+@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Some(text.to_owned());
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if c == '"' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    Some(quoted)
}

/// An inline block that is still open.
struct Block {
    tag: String,
    body: Secret<String>,
    place: Place,
}

struct Lexer {
    source: Arc<str>,
    directives: Vec<Directive>,
    problems: Vec<Diagnostic>,
    block: Option<Block>,
}

impl Lexer {
    fn run(mut self, text: &[u8]) -> Result<Vec<Directive>, Vec<Diagnostic>> {
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            // MAX_TEXT bounds the number of lines far below u32::MAX.
            let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            self.line(number, line.strip_suffix(b"\r").unwrap_or(line));
            if self.problems.len() >= MAX_DIAGNOSTICS {
                let place = Place::file(&self.source, number, 1);
                self.problems.push(Diagnostic::error(&place, "too many faults, the rest was not read"));
                return Err(self.problems);
            }
        }
        if let Some(block) = self.block.take() {
            let message = format!("the block <{}> is never closed", block.tag);
            let hint = format!("close it with a line </{}>", block.tag);
            self.problems.push(Diagnostic::error(&block.place, message).hint(hint));
        }
        if self.problems.is_empty() { Ok(self.directives) } else { Err(self.problems) }
    }

    fn line(&mut self, number: u32, line: &[u8]) {
        let place = Place::file(&self.source, number, 1);
        if let Some(at) = line.iter().position(|byte| *byte == 0) {
            let column = u32::try_from(at + 1).unwrap_or(u32::MAX);
            let problem = Diagnostic::error(&place.at_column(column), "a NUL byte in the text");
            self.problems.push(problem.hint("the file is binary or damaged"));
            return;
        }
        if self.block.is_some() {
            self.block_line(&place, line);
            return;
        }
        let first = line.iter().find(|byte| !byte.is_ascii_whitespace());
        if first.is_none_or(|byte| matches!(byte, b'#' | b';')) {
            return;
        }
        if line.len() > MAX_LINE {
            let message = format!("the line has {} bytes, the limit is {MAX_LINE}", line.len());
            self.problems.push(Diagnostic::error(&place, message));
            return;
        }
        let Ok(line) = str::from_utf8(line) else {
            let problem = Diagnostic::error(&place, "the line is not UTF-8");
            self.problems.push(problem.hint("save the file as UTF-8"));
            return;
        };
        match tokens(line) {
            Ok(tokens) => self.directive(&place, tokens),
            Err((column, message)) => {
                self.problems.push(Diagnostic::error(&place.at_column(column), message));
            }
        }
    }

    fn block_line(&mut self, place: &Place, line: &[u8]) {
        let Some(block) = &mut self.block else { return };
        let Ok(line) = str::from_utf8(line) else {
            let message = format!("the block <{}> holds bytes that are not UTF-8", block.tag);
            self.problems.push(Diagnostic::error(place, message).hint("inline blocks hold text (PEM)"));
            return;
        };
        let closes = line
            .trim_start()
            .strip_prefix("</")
            .and_then(|rest| rest.strip_prefix(block.tag.as_str()))
            .is_some_and(|rest| rest.starts_with('>'));
        if closes {
            if let Some(Block { tag, body, place }) = self.block.take() {
                self.directives.push(Directive { name: tag, args: Vec::new(), inline: Some(body), place });
            }
            return;
        }
        let body = block.body.expose_mut();
        body.push_str(line);
        body.push('\n');
    }

    fn directive(&mut self, line: &Place, tokens: Vec<(u32, String)>) {
        let count = tokens.len();
        let mut tokens = tokens.into_iter();
        let Some((column, name)) = tokens.next() else {
            return;
        };
        let place = line.at_column(column);
        if count > MAX_TOKENS {
            let message = format!("{count} words in the line, the limit is {MAX_TOKENS}");
            self.problems.push(Diagnostic::error(&place, message).hint("quote arguments that hold spaces"));
            return;
        }
        if let Some(tag) = name.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')) {
            if count > 1 {
                let message = format!("words after the tag <{tag}>");
                self.problems
                    .push(Diagnostic::error(&place, message).hint("the body starts on the next line"));
            } else if let Some(tag) = tag.strip_prefix('/') {
                let message = format!("</{tag}> closes a block that was never opened");
                self.problems.push(Diagnostic::error(&place, message));
            } else if tag.is_empty() || !tag.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
                self.problems.push(Diagnostic::error(&place, "a block needs a name such as <ca>"));
            } else {
                self.block = Some(Block { tag: tag.to_owned(), body: Secret::default(), place });
            }
            return;
        }
        let name = match name.strip_prefix("--") {
            Some(bare) if !bare.is_empty() => bare.to_owned(),
            _ => name,
        };
        let args = tokens.map(|(column, text)| Arg::new(text, line.at_column(column))).collect();
        self.directives.push(Directive { name, args, inline: None, place });
    }
}

/// What the tokenizer is in the middle of.
enum State {
    Between,
    Bare,
    Single,
    Double,
}

/// Splits one line into words with their columns; on a fault its column and message.
///
/// A backslash takes the next character as it is, outside single quotes, and may stand only before a backslash, a double
/// quote or white space. A word that starts with `#` or `;` starts a comment. A quoted word ends with its quote.
fn tokens(line: &str) -> Result<Vec<(u32, String)>, (u32, String)> {
    let mut words = Vec::new();
    let mut state = State::Between;
    let mut word = String::new();
    let mut start = 1;
    let mut column = 0;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        column += 1;
        let at = column;
        let escaped = if c == '\\' && !matches!(state, State::Single) {
            column += 1;
            let next = chars.next();
            if !next.is_some_and(|c| matches!(c, '\\' | '"') || is_space(c)) {
                let message = "a backslash may stand only before a backslash, a double quote or a space; \
                               write it twice, or put the word in single quotes";
                return Err((at, message.to_owned()));
            }
            next
        } else {
            None
        };
        match (&state, escaped, c) {
            (State::Between, None, c) if is_space(c) => {}
            (State::Between, None, '#' | ';') => break,
            (State::Between, escaped, c) => {
                start = at;
                state = match (escaped, c) {
                    (None, '"') => State::Double,
                    (None, '\'') => State::Single,
                    _ => {
                        word.push(escaped.unwrap_or(c));
                        State::Bare
                    }
                };
            }
            (State::Bare, None, c) if is_space(c) => {
                words.push((start, std::mem::take(&mut word)));
                state = State::Between;
            }
            (State::Single, None, '\'') | (State::Double, None, '"') => {
                words.push((start, std::mem::take(&mut word)));
                state = State::Between;
            }
            (_, escaped, c) => word.push(escaped.unwrap_or(c)),
        }
    }
    match state {
        State::Between => {}
        State::Bare => words.push((start, word)),
        State::Single => return Err((start, "the single quote is never closed in this line".to_owned())),
        State::Double => return Err((start, "the double quote is never closed in this line".to_owned())),
    }
    Ok(words)
}

/// White space inside a line: what C's `isspace` knows.
const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '\u{b}' | '\u{c}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        let directives = lex("t", text).unwrap();
        directives
            .into_iter()
            .map(|d| {
                std::iter::once(d.name.clone()).chain(d.args.iter().map(|a| a.as_str().to_owned())).collect()
            })
            .collect()
    }

    fn fault(text: impl AsRef<[u8]>) -> String {
        lex("t", text).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn words_quotes_and_comments() {
        let cases: &[(&str, &[&[&str]])] = &[
            ("port 1194", &[&["port", "1194"]]),
            ("  port\t1194  # tail", &[&["port", "1194"]]),
            ("port 1194 ; tail", &[&["port", "1194"]]),
            ("a b#c d;e", &[&["a", "b#c", "d;e"]]),
            ("# a\n;b\n\n  # c\nd", &[&["d"]]),
            ("push \"route 10.0.0.0 255.0.0.0\"", &[&["push", "route 10.0.0.0 255.0.0.0"]]),
            ("a 'b \"c\" \\d'", &[&["a", "b \"c\" \\d"]]),
            (r#"a "b \"c\" \\ d" e"#, &[&["a", "b \"c\" \\ d", "e"]]),
            (r"a b\ c\\d", &[&["a", "b c\\d"]]),
            ("a \"\" ''", &[&["a", "", ""]]),
            ("a \"b\"c", &[&["a", "b", "c"]]),
            ("a b'c'd", &[&["a", "b'c'd"]]),
            ("--dev tun", &[&["dev", "tun"]]),
            ("a b\r\nc d\r\n", &[&["a", "b"], &["c", "d"]]),
            ("\u{feff}dev tun", &[&["dev", "tun"]]),
            ("a 'é ü' x", &[&["a", "é ü", "x"]]),
        ];
        for (text, expected) in cases {
            assert_eq!(words(text), *expected, "{text:?}");
        }
    }

    #[test]
    fn places_are_line_and_column() {
        let directives = lex("x.conf", "\n  dev 'é' tun0\n").unwrap();
        assert_eq!(directives[0].place.to_string(), "x.conf:2:3");
        assert_eq!(directives[0].arg_place(1).to_string(), "x.conf:2:11");
        assert_eq!(directives[0].arg_place(7).to_string(), "x.conf:2:3");
    }

    #[test]
    fn inline_blocks() {
        let directives = lex("t", "<ca>\r\n-----A-----\r\n# kept \"\r\n  </ca>\r\ndev tun").unwrap();
        assert_eq!(directives[0].name, "ca");
        assert_eq!(directives[0].inline.as_ref().unwrap().expose(), "-----A-----\n# kept \"\n");
        assert_eq!(directives[1].name, "dev");
        assert!(!format!("{directives:?}").contains("-----A"), "bodies are secrets");
    }

    #[test]
    fn arguments_do_not_print() {
        let directives = lex("t", "push \"auth-token hunter2\"").unwrap();
        assert!(!format!("{directives:?}").contains("hunter2"));
    }

    #[test]
    fn faults_name_their_place() {
        let cases: &[(&[u8], &str)] = &[
            (b"a \"b", "t:1:3: error: the double quote is never closed"),
            (b"a\nb 'c", "t:2:3: error: the single quote is never closed"),
            (b"a b\\n", "t:1:4: error: a backslash"),
            (b"a b\\", "t:1:4: error: a backslash"),
            (b"a\0b", "t:1:2: error: a NUL byte"),
            (b"<ca>\nx", "t:1:1: error: the block <ca> is never closed"),
            (b"</ca>", "t:1:1: error: </ca> closes"),
            (b"<ca> x\n</ca>", "words after the tag"),
            (b"<>\n</>", "a block needs a name"),
            (b"\xff\xfed\0e\0v\0", "UTF-16"),
            (b"dev \xe4", "not UTF-8"),
            (b"a 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "17 words"),
        ];
        for (text, expected) in cases {
            let found = fault(text);
            assert!(found.contains(expected), "{text:?}: {found}");
        }
        assert!(fault("a ".repeat(MAX_LINE)).contains("the limit is 8192"));
        assert!(fault("#".repeat(MAX_TEXT + 1)).contains("the limit is 4194304"));
    }

    #[test]
    fn all_faults_come_at_once_but_not_without_end() {
        assert_eq!(lex("t", "a 'b\nc \"d\n").unwrap_err().len(), 2);
        assert_eq!(lex("t", "a 'b\n".repeat(5000)).unwrap_err().len(), MAX_DIAGNOSTICS + 1);
    }

    #[test]
    fn comments_may_be_latin1() {
        assert_eq!(lex("t", b"# gr\xfc\xdfe\ndev tun").unwrap().len(), 1);
    }

    #[test]
    fn commands_split_like_lines() {
        assert_eq!(split_command("/bin/sh -c 'a b'").unwrap(), ["/bin/sh", "-c", "a b"]);
        assert!(split_command("/bin/sh 'a").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = lex("t", text);
        }

        #[test]
        fn never_panics_on_likely_text(text in "[a<>/\\\\\"'#; \n\r\tb-]{0,200}") {
            let _ = lex("t", text);
        }

        #[test]
        fn quoting_round_trips(args in proptest::collection::vec("[^\n\r\0]{0,40}", 0..10)) {
            let line = args.iter().fold("x".to_owned(), |line, arg| line + " " + &quote(arg).unwrap());
            let directives = lex("t", &line).unwrap();
            prop_assert_eq!(directives.len(), 1);
            let read: Vec<_> = directives[0].args.iter().map(Arg::as_str).collect();
            prop_assert_eq!(read, args);
        }
    }
}
