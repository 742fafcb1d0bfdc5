//! Control-channel messages: NUL-terminated lines of text inside TLS.

use core::time::Duration;

use crate::Secret;
use crate::keys::Role;

/// Longest message that is accepted, with its NUL; OpenVPN's channel buffer.
pub const MAX_MESSAGE: usize = 2048;
/// Longest `AUTH_FAILED` or `RESTART` text that is sent: with its word it fits the 1,024 bytes of older clients, and holds a
/// challenge.
const MAX_REASON: usize = 960;
/// Longest base64 text of a `CR_RESPONSE`; what people type is far shorter.
const MAX_RESPONSE: usize = 1024;
/// Options of one PUSH_REPLY part are flushed when the next would pass this; what OpenVPN uses.
const PUSH_FLUSH: usize = 940;

/// What a client says.
#[derive(Debug)]
pub enum FromClient {
    /// Wants its configuration.
    PushRequest,
    /// The answer to a question that was asked during the login (`CR_TEXT`), in base64.
    CrResponse(Secret<String>),
    /// Leaves.
    Exit,
    /// Anything else: logged and ignored.
    Unknown(String),
}

/// What a server says.
#[derive(Debug)]
pub enum FromServer {
    /// Options, and whether more parts follow.
    PushReply {
        /// One option each.
        options: Vec<Secret<String>>,
        /// Another part follows.
        more: bool,
    },
    /// The login is refused.
    AuthFailed(String),
    /// The login takes longer: as many seconds as are named.
    AuthPending(Option<u32>),
    /// Something for the person at the client, such as a question (`CR_TEXT:…`) or an address to open.
    Info(String),
    /// Come back; the flags say what to keep.
    Restart(String),
    /// Do not come back.
    Halt(String),
    /// The server leaves.
    Exit,
    /// Anything else.
    Unknown(String),
}

/// Splits a stream of NUL-terminated messages that may arrive in any pieces.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    partial: Secret<Vec<u8>>,
}

impl Splitter {
    /// Takes bytes in and gives the messages that are now complete. What is longer than [`MAX_MESSAGE`] or holds
    /// unprintable bytes is dropped: text of a peer reaches logs and scripts.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Secret<String>> {
        let mut out = Vec::new();
        for byte in bytes {
            let partial = self.partial.expose_mut();
            if *byte != 0 {
                // One byte more than allowed is kept, as the mark that the message is too long.
                if partial.len() <= MAX_MESSAGE {
                    partial.push(*byte);
                }
                continue;
            }
            let done = core::mem::take(&mut self.partial);
            out.extend(printable(done.expose()));
        }
        out
    }
}

fn printable(bytes: &[u8]) -> Option<Secret<String>> {
    if bytes.len() > MAX_MESSAGE {
        return None;
    }
    let text = core::str::from_utf8(bytes).ok()?.trim_end_matches(['\r', '\n']);
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| Secret::new(text.to_owned()))
}

impl FromClient {
    /// Never fails: what is not known is [`FromClient::Unknown`].
    pub fn parse(text: &str) -> Self {
        match text {
            "PUSH_REQUEST" => Self::PushRequest,
            "EXIT" => Self::Exit,
            other if let Some(response) = cr_response(other) => Self::CrResponse(response),
            // The first word only: arguments of messages that we do not know may hold secrets.
            other => Self::Unknown(other.split(',').next().unwrap_or_default().chars().take(64).collect()),
        }
    }
}

impl FromServer {
    /// Never fails: what is not known is [`FromServer::Unknown`].
    pub fn parse(text: &str) -> Self {
        let (word, rest) = text.split_once(',').unwrap_or((text, ""));
        match word {
            "PUSH_REPLY" => {
                let mut more = false;
                let mut options = Vec::new();
                for option in rest.split(',').filter(|option| !option.is_empty()) {
                    match option {
                        "push-continuation 2" => more = true,
                        "push-continuation 1" => more = false,
                        _ => options.push(Secret::new(option.to_owned())),
                    }
                }
                Self::PushReply { options, more }
            }
            "AUTH_FAILED" => Self::AuthFailed(rest.to_owned()),
            "AUTH_PENDING" => {
                Self::AuthPending(rest.strip_prefix("timeout ").and_then(|seconds| seconds.parse().ok()))
            }
            "INFO" | "INFO_PRE" => Self::Info(rest.to_owned()),
            "RESTART" => Self::Restart(rest.to_owned()),
            "HALT" => Self::Halt(rest.to_owned()),
            "EXIT" => Self::Exit,
            other => Self::Unknown(other.to_owned()),
        }
    }
}

/// What stands behind `CR_RESPONSE,`, if it is base64 of a sane length: it is handed to scripts.
fn cr_response(text: &str) -> Option<Secret<String>> {
    let response = text.strip_prefix("CR_RESPONSE,")?;
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    (response.len() <= MAX_RESPONSE && response.bytes().all(base64)).then(|| Secret::new(response.to_owned()))
}

/// The bytes of a message on the wire.
pub(crate) fn encode(text: &str) -> Secret<Vec<u8>> {
    let mut out = text.as_bytes().to_vec();
    out.push(0);
    Secret::new(out)
}

/// Makes text fit to be a reason: printable, one line, bounded.
fn reason(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > MAX_REASON {
            break;
        }
        out.push(c);
    }
    out
}

/// `HALT`, after which a client stays away.
pub(crate) fn halt(text: &str) -> String {
    format!("HALT,{}", reason(text))
}

/// Why a login is refused, in the form that clients understand.
#[derive(Debug, Clone)]
pub enum AuthFailure {
    /// A definite no: clients drop their token and ask for the password.
    Denied(Option<String>),
    /// The token or session is no longer good.
    Session(String),
    /// Not the client's fault: it keeps its token and comes back.
    Temporary(String),
    /// The same in a hook's own words, from `TEMP` on.
    TemporaryAs(String),
    /// A question that the client answers at its next login (`CRV1:…`, whole). It names a state that is half a secret.
    Challenge(Secret<String>),
}

impl AuthFailure {
    /// The message, or `None` when silence is the only form of it that this client would not misunderstand:
    /// without `AUTH_FAIL_TEMP` it takes a temporary failure for a definite one.
    pub(crate) fn message(&self, understands_temp: bool) -> Option<String> {
        match self {
            Self::Denied(None) => Some("AUTH_FAILED".to_owned()),
            Self::Denied(Some(text)) => Some(format!("AUTH_FAILED,{}", reason(text))),
            Self::Session(text) => Some(format!("AUTH_FAILED,SESSION: {}", reason(text))),
            Self::Temporary(text) if understands_temp => {
                Some(format!("AUTH_FAILED,TEMP[backoff 5,advance no]:{}", reason(text)))
            }
            Self::TemporaryAs(text) if understands_temp => Some(format!("AUTH_FAILED,{}", reason(text))),
            Self::Temporary(_) | Self::TemporaryAs(_) => None,
            Self::Challenge(text) => Some(format!("AUTH_FAILED,{}", reason(text.expose()))),
        }
    }

    /// A refusal with a reason that a hook gave: it may choose one of the forms by how its text starts.
    pub fn from_hook(text: &str) -> Self {
        if text.starts_with("TEMP") {
            return Self::TemporaryAs(text.to_owned());
        }
        if text.starts_with("CRV1:") {
            return Self::Challenge(Secret::new(text.to_owned()));
        }
        match text.strip_prefix("SESSION:") {
            Some(rest) => Self::Session(rest.trim_start().to_owned()),
            None => Self::Denied((!text.is_empty()).then(|| text.to_owned())),
        }
    }
}

/// For logs: without what is half a secret.
impl core::fmt::Display for AuthFailure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Denied(None) => f.write_str("login refused"),
            Self::Denied(Some(text))
            | Self::Session(text)
            | Self::Temporary(text)
            | Self::TemporaryAs(text) => write!(f, "login refused: {text}"),
            Self::Challenge(_) => f.write_str("login needs the answer to a question"),
        }
    }
}

/// A login that takes longer than a client waits for.
#[derive(Debug, Clone, Default)]
pub struct Pending {
    /// How long the client is to wait.
    pub timeout: Duration,
    /// A question or an address for the person at the client (`CR_TEXT:…`, `WEB_AUTH:…`, `OPEN_URL:…`).
    pub info: Option<Secret<String>>,
}

impl Pending {
    /// The messages, in order; older clients know no word behind `AUTH_PENDING`.
    pub(crate) fn messages(&self, understands_timeout: bool) -> Vec<Secret<String>> {
        let mut out = Vec::new();
        out.push(Secret::new(if understands_timeout {
            format!("AUTH_PENDING,timeout {}", self.timeout.as_secs())
        } else {
            "AUTH_PENDING".to_owned()
        }));
        out.extend(self.info.iter().map(|info| Secret::new(format!("INFO_PRE,{}", reason(info.expose())))));
        out
    }
}

/// `RESTART` in the one form after which every client keeps its token.
pub(crate) fn restart(text: &str) -> String {
    format!("RESTART,[P]:{}", reason(text))
}

/// Splits options over as many PUSH_REPLY messages as they need. Options that cannot be pushed (too long, with a comma
/// or a control character) are given back instead of being sent.
pub(crate) fn push_reply(options: &[Secret<String>]) -> (Vec<Secret<String>>, usize) {
    let mut parts = Vec::new();
    let mut part = String::from("PUSH_REPLY");
    let mut refused = 0usize;
    for option in options {
        let option = option.expose();
        let bad =
            option.len() >= PUSH_FLUSH - 10 || option.contains(',') || option.chars().any(char::is_control);
        if bad || option.is_empty() {
            refused = refused.saturating_add(1);
            continue;
        }
        if part.len() + option.len() >= PUSH_FLUSH {
            part.push_str(",push-continuation 2");
            parts.push(Secret::new(core::mem::replace(&mut part, String::from("PUSH_REPLY"))));
        }
        part.push(',');
        part.push_str(option);
    }
    if !parts.is_empty() {
        part.push_str(",push-continuation 1");
    }
    parts.push(Secret::new(part));
    (parts, refused)
}

/// A PUSH_REPLY that only replaces the client's token; clients take it at any time.
pub(crate) fn token_update(token: &Secret<String>) -> Secret<String> {
    Secret::new(format!("PUSH_REPLY,auth-token {}", token.expose()))
}

/// The options string that `role` sends for comparison; stock peers only warn about differences.
pub fn options_string(role: Role, tun_mtu: u16, cipher: &str, key_bits: usize, tls_auth: bool) -> String {
    let link_mtu = u32::from(tun_mtu).saturating_add(49);
    let side = if role == Role::Server { "tls-server" } else { "tls-client" };
    let keydir = match (tls_auth, role) {
        (false, _) => "",
        (true, Role::Server) => "keydir 0,",
        (true, Role::Client) => "keydir 1,",
    };
    let auth = if tls_auth { "tls-auth," } else { "" };
    format!(
        "V4,dev-type tun,link-mtu {link_mtu},tun-mtu {tun_mtu},proto UDPv4,{keydir}cipher {cipher},\
         auth [null-digest],keysize {key_bits},{auth}key-method 2,{side}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(messages: &[Secret<String>]) -> Vec<&str> {
        messages.iter().map(|m| m.expose().as_str()).collect()
    }

    #[test]
    fn reasons_are_one_bounded_line() {
        assert_eq!(halt("gone\0PUSH_REPLY,\nroute"), "HALT,gonePUSH_REPLY,route");
        let long = halt(&"\u{1f512}".repeat(MAX_REASON));
        assert!(long.len() <= "HALT,".len() + MAX_REASON && long.is_char_boundary(long.len()));
        assert!(restart(&"\u{e9}".repeat(MAX_REASON)).len() <= "RESTART,[P]:".len() + MAX_REASON);
    }

    #[test]
    fn splits_at_any_boundary_and_drops_rubbish() {
        let stream = b"PUSH_REQUEST\0EXIT\r\n\0\0bad\x01\0\xff\xfe\0ok\0";
        for cut in 0..stream.len() {
            let mut s = Splitter::default();
            let mut got = s.push(&stream[..cut]);
            got.extend(s.push(&stream[cut..]));
            assert_eq!(texts(&got), ["PUSH_REQUEST", "EXIT", "ok"], "cut at {cut}");
        }
        let mut s = Splitter::default();
        assert!(s.push(&vec![b'x'; 1 << 20]).is_empty());
        assert!(s.push(b"\0").is_empty());
        assert_eq!(texts(&s.push(b"again\0")), ["again"]);
    }

    #[test]
    fn push_reply_splits_and_parses_back() {
        let options: Vec<_> =
            (0..200).map(|i| Secret::new(format!("route 10.{i}.0.0 255.255.0.0"))).collect();
        let (parts, refused) = push_reply(&options);
        assert_eq!(refused, 0);
        assert!(parts.len() > 5);
        let mut all = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            assert!(part.expose().len() < 1024);
            let FromServer::PushReply { options, more } = FromServer::parse(part.expose()) else { panic!() };
            assert_eq!(more, i + 1 < parts.len());
            all.extend(options);
        }
        assert_eq!(texts(&all), texts(&options));
        assert_eq!(texts(&push_reply(&[]).0), ["PUSH_REPLY"]);
    }

    #[test]
    fn options_that_would_inject_others_are_not_pushed() {
        let bad = ["a,b", "a\nb", "a\0b", "", &"x".repeat(1000)].map(|text| Secret::new(text.to_owned()));
        let (parts, refused) = push_reply(&bad);
        assert_eq!((texts(&parts), refused), (vec!["PUSH_REPLY"], 5));
    }

    #[test]
    fn failures_in_the_form_that_keeps_or_drops_the_token() {
        let temporary = AuthFailure::Temporary("hook timed out".into());
        assert_eq!(temporary.message(false), None);
        assert!(temporary.message(true).unwrap().starts_with("AUTH_FAILED,TEMP["));
        assert_eq!(AuthFailure::Denied(None).message(false).unwrap(), "AUTH_FAILED");
        assert_eq!(AuthFailure::Denied(Some("no\n\0".into())).message(true).unwrap(), "AUTH_FAILED,no");
        assert!(restart("bye").starts_with("RESTART,[P]:"));
    }

    #[test]
    fn unknown_messages_keep_only_their_name() {
        let parsed = format!("{:?}", FromClient::parse("ACC,c2VjcmV0"));
        assert_eq!(parsed, "Unknown(\"ACC\")");
    }

    #[test]
    fn responses_are_base64_or_nothing() {
        let response = |text: &str| match FromClient::parse(text) {
            FromClient::CrResponse(response) => Some(response.expose().clone()),
            _ => None,
        };
        assert_eq!(response("CR_RESPONSE,MTIzNDU2").as_deref(), Some("MTIzNDU2"));
        assert_eq!(response("CR_RESPONSE,").as_deref(), Some(""));
        for bad in ["CR_RESPONSE", "CR_RESPONSE,a b", "CR_RESPONSE,$(id)", "CR_RESPONSE,-"] {
            assert_eq!(response(bad), None, "{bad}");
        }
        assert_eq!(response(&format!("CR_RESPONSE,{}", "A".repeat(MAX_RESPONSE + 1))), None);
    }

    #[test]
    fn a_hooks_reason_chooses_the_form() {
        let message = |text: &str| AuthFailure::from_hook(text).message(true).unwrap();
        assert_eq!(message(""), "AUTH_FAILED");
        assert_eq!(message("no such user"), "AUTH_FAILED,no such user");
        assert_eq!(message("SESSION: gone"), "AUTH_FAILED,SESSION: gone");
        assert_eq!(message("TEMP[backoff 9]:later"), "AUTH_FAILED,TEMP[backoff 9]:later");
        assert_eq!(message("CRV1:R,E:xyz:YWxpY2U=:code?"), "AUTH_FAILED,CRV1:R,E:xyz:YWxpY2U=:code?");
        assert_eq!(AuthFailure::from_hook("TEMP:later").message(false), None);
        assert!(!format!("{}", AuthFailure::from_hook("CRV1:R,E:xyz:YQ==:?")).contains("xyz"));
    }

    #[test]
    fn pending_in_the_words_of_the_client() {
        let info = Some(Secret::new("CR_TEXT:R,E:Code".to_owned()));
        let pending = Pending { timeout: Duration::from_secs(90), info };
        assert_eq!(texts(&pending.messages(true)), ["AUTH_PENDING,timeout 90", "INFO_PRE,CR_TEXT:R,E:Code"]);
        assert_eq!(texts(&pending.messages(false)), ["AUTH_PENDING", "INFO_PRE,CR_TEXT:R,E:Code"]);
        let FromServer::AuthPending(Some(90)) = FromServer::parse("AUTH_PENDING,timeout 90") else {
            panic!()
        };
    }
}
