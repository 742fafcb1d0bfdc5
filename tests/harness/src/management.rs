//! A stock client's management interface: the test is the user who is asked for logins and codes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::eventually;

/// How long a client may take to open its socket.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// How long a client that is asked something may take to answer: it answers at once, on a busy machine too.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The other end of a client's management socket. Every line that the client says is kept.
#[derive(Debug)]
pub struct Management {
    title: String,
    stream: UnixStream,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Management {
    pub(crate) fn connect(title: &str, socket: &Path) -> Self {
        let stream =
            eventually("the client's management socket", OPEN_LIMIT, || UnixStream::connect(socket).ok());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&lines);
        let reader = BufReader::new(stream.try_clone().expect("a second handle of the socket"));
        // Ends with the client: the socket is closed then.
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                theirs.lock().expect("no panic while held").push(line.trim_end().to_owned());
            }
        });
        Self { title: title.to_owned(), stream, lines }
    }

    /// Sends a command.
    pub fn send(&self, command: &str) {
        let mut stream = &self.stream;
        stream.write_all(format!("{command}\n").as_bytes()).expect("a client that is alive");
    }

    /// Everything the client said so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic while held").clone()
    }

    /// How many lines contain `part`.
    #[must_use]
    pub fn count(&self, part: &str) -> usize {
        self.lines().iter().filter(|line| line.contains(part)).count()
    }

    /// How often the client asked for a login (user name and password) so far.
    #[must_use]
    pub fn prompts(&self) -> usize {
        self.count(">PASSWORD:Need 'Auth'")
    }

    /// Waits for the `nth` (from 1) line that contains `part`, and gives it.
    pub fn wait_nth(&self, part: &str, nth: usize, limit: Duration) -> String {
        eventually(
            &format!("{}: {part:?} number {nth} on the management interface", self.title),
            limit,
            || self.lines().into_iter().filter(|line| line.contains(part)).nth(nth.checked_sub(1)?),
        )
    }

    /// Waits until the client asks for a login for the `nth` time (from 1), answers, and gives what it asked.
    pub fn login(&self, nth: usize, user: &str, password: &str, limit: Duration) -> String {
        let asked = self.wait_nth(">PASSWORD:Need 'Auth'", nth, limit);
        let before = self.count("SUCCESS: 'Auth'");
        self.send(&format!("username \"Auth\" {}", quoted(user)));
        self.wait_nth("SUCCESS: 'Auth' username", before / 2 + 1, ANSWER_LIMIT);
        self.send(&format!("password \"Auth\" {}", quoted(password)));
        asked
    }

    /// Waits for the `nth` (from 1) question of a pending login, answers it, and gives its text (`R,E:question`).
    pub fn challenge(&self, nth: usize, response: &str, limit: Duration) -> String {
        let asked = self.wait_nth(">INFOMSG:CR_TEXT:", nth, limit);
        self.send(&format!("cr-response {}", crate::otp::base64(response.as_bytes())));
        asked.split_once("CR_TEXT:").map(|(_, text)| text.to_owned()).expect("just found")
    }
}

/// A word as the management interface reads it.
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}
