//! What can be asked of the gateway.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::{
    API_VERSION, ApiError, ErrorCode, KillTarget, RevokeTarget, SessionKill, SessionList, SessionShow,
    TOKEN_PAGE, TokenList, TokenRevoke, UserAdd, UserName, UserOtp, UserPassword,
};

/// Longest request line in bytes, without its end. The longest sensible one, `user.add`, has about 1 KiB.
pub const MAX_REQUEST: usize = 64 * 1024;
/// Longest name or id: that of the token cache.
const MAX_NAME: usize = 255;
/// Longest reason: with its command it must fit a control message of the oldest clients.
const MAX_REASON: usize = 200;
/// Longest password: what fits the login of a stock client.
const MAX_PASSWORD: usize = 127;
/// Room for a request with secrets, so that no copy is left behind by growing.
const ROOM: usize = 4096;

/// A request.
#[derive(Debug, Clone)]
pub enum Request {
    /// `session.list`
    SessionList(SessionList),
    /// `session.show`
    SessionShow(SessionShow),
    /// `session.kill`
    SessionKill(SessionKill),
    /// `token.list`
    TokenList(TokenList),
    /// `token.revoke`
    TokenRevoke(TokenRevoke),
    /// `token.rotate_secret`
    TokenRotateSecret(Empty),
    /// `user.add`
    UserAdd(UserAdd),
    /// `user.list`
    UserList(Empty),
    /// `user.remove`
    UserRemove(UserName),
    /// `user.otp`
    UserOtp(UserOtp),
    /// `user.password`
    UserPassword(UserPassword),
    /// `user.lock`
    UserLock(UserName),
    /// `user.unlock`
    UserUnlock(UserName),
    /// `status`
    Status(Empty),
    /// `metrics`
    Metrics(Empty),
}

/// No parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// The parameters are left as they are until the method is known, so that secrets are copied only where they belong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Incoming<'a> {
    #[serde(default)]
    api_version: Option<u32>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Outgoing<'a, P: Serialize> {
    api_version: u32,
    method: &'a str,
    params: &'a P,
}

impl Request {
    /// Reads a request from a line. The caller wipes the line, and has checked its length.
    ///
    /// # Errors
    /// What is wrong with it. The message names fields, never values.
    pub fn parse(line: &[u8]) -> Result<Self, ApiError> {
        let request: Incoming<'_> = serde_json::from_slice(line).map_err(|error| bad(&error, ""))?;
        if let Some(version) = request.api_version.filter(|version| *version != API_VERSION) {
            return Err(ApiError::new(
                ErrorCode::UnsupportedVersion,
                format!("version {version} of the contract is not spoken here, but {API_VERSION}"),
            ));
        }
        let method = &*request.method;
        let params = request.params.map_or("{}", RawValue::get);
        let request = match method {
            "session.list" => Self::SessionList(read(method, params)?),
            "session.show" => Self::SessionShow(read(method, params)?),
            "session.kill" => Self::SessionKill(read(method, params)?),
            "token.list" => Self::TokenList(read(method, params)?),
            "token.revoke" => Self::TokenRevoke(read(method, params)?),
            "token.rotate_secret" => Self::TokenRotateSecret(read(method, params)?),
            "user.add" => Self::UserAdd(read(method, params)?),
            "user.list" => Self::UserList(read(method, params)?),
            "user.remove" => Self::UserRemove(read(method, params)?),
            "user.otp" => Self::UserOtp(read(method, params)?),
            "user.password" => Self::UserPassword(read(method, params)?),
            "user.lock" => Self::UserLock(read(method, params)?),
            "user.unlock" => Self::UserUnlock(read(method, params)?),
            "status" => Self::Status(read(method, params)?),
            "metrics" => Self::Metrics(read(method, params)?),
            _ => return Err(ApiError::new(ErrorCode::UnknownMethod, "there is no such method")),
        };
        request.validate()?;
        Ok(request)
    }

    /// The request as a line, with its end.
    ///
    /// # Errors
    /// Never for requests that [`Self::parse`] could have made.
    pub fn line(&self) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        match self {
            Self::SessionList(params) => self.write(params),
            Self::SessionShow(params) => self.write(params),
            Self::SessionKill(params) => self.write(params),
            Self::TokenList(params) => self.write(params),
            Self::TokenRevoke(params) => self.write(params),
            Self::UserAdd(params) => self.write(params),
            Self::UserOtp(params) => self.write(params),
            Self::UserPassword(params) => self.write(params),
            Self::UserRemove(params) | Self::UserLock(params) | Self::UserUnlock(params) => {
                self.write(params)
            }
            Self::TokenRotateSecret(params)
            | Self::UserList(params)
            | Self::Status(params)
            | Self::Metrics(params) => self.write(params),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn method(&self) -> &'static str {
        match self {
            Self::SessionList(_) => "session.list",
            Self::SessionShow(_) => "session.show",
            Self::SessionKill(_) => "session.kill",
            Self::TokenList(_) => "token.list",
            Self::TokenRevoke(_) => "token.revoke",
            Self::TokenRotateSecret(_) => "token.rotate_secret",
            Self::UserAdd(_) => "user.add",
            Self::UserList(_) => "user.list",
            Self::UserRemove(_) => "user.remove",
            Self::UserOtp(_) => "user.otp",
            Self::UserPassword(_) => "user.password",
            Self::UserLock(_) => "user.lock",
            Self::UserUnlock(_) => "user.unlock",
            Self::Status(_) => "status",
            Self::Metrics(_) => "metrics",
        }
    }

    /// It changes something, and so belongs into the log.
    #[must_use]
    pub const fn is_change(&self) -> bool {
        match self {
            Self::SessionKill(_)
            | Self::TokenRevoke(_)
            | Self::TokenRotateSecret(_)
            | Self::UserAdd(_)
            | Self::UserRemove(_)
            | Self::UserOtp(_)
            | Self::UserPassword(_)
            | Self::UserLock(_)
            | Self::UserUnlock(_) => true,
            Self::SessionList(_)
            | Self::SessionShow(_)
            | Self::TokenList(_)
            | Self::UserList(_)
            | Self::Status(_)
            | Self::Metrics(_) => false,
        }
    }

    /// Its answer may be large.
    #[must_use]
    pub const fn is_list(&self) -> bool {
        matches!(self, Self::SessionList(_) | Self::TokenList(_) | Self::UserList(_) | Self::Metrics(_))
    }

    /// Whether all values are within bounds; [`Self::parse`] has asked.
    ///
    /// # Errors
    /// Which is not.
    pub fn validate(&self) -> Result<(), ApiError> {
        match self {
            Self::SessionList(SessionList { filter }) => {
                optional("common_name", filter.common_name.as_deref())?;
                optional("username", filter.username.as_deref())
            }
            Self::SessionShow(params) => text("id", &params.id),
            Self::SessionKill(SessionKill { target, reason, .. }) => {
                match target {
                    KillTarget::Id(id) => text("id", id)?,
                    KillTarget::CommonName(name) => text("common_name", name)?,
                    KillTarget::Username(name) => text("username", name)?,
                }
                reason.as_deref().map_or(Ok(()), |reason| bounded("reason", reason, MAX_REASON))
            }
            Self::TokenList(params) => {
                if !(1..=TOKEN_PAGE).contains(&params.limit) {
                    return Err(ApiError::bad_request(format!("limit: 1 to {TOKEN_PAGE}")));
                }
                optional("user", params.user.as_deref())?;
                optional("after", params.after.as_deref())
            }
            Self::TokenRevoke(params) => match &params.target {
                RevokeTarget::Id(id) => text("id", id),
                RevokeTarget::SessionId(id) => text("session_id", id),
                RevokeTarget::Username(name) => text("username", name),
                RevokeTarget::Certificate(_) | RevokeTarget::Everything => Ok(()),
            },
            Self::UserAdd(UserAdd { name, password, .. })
            | Self::UserPassword(UserPassword { name, password }) => {
                text("name", name)?;
                password
                    .as_ref()
                    .map_or(Ok(()), |password| bounded("password", password.expose(), MAX_PASSWORD))
            }
            Self::UserOtp(UserOtp { name, .. })
            | Self::UserRemove(UserName { name })
            | Self::UserLock(UserName { name })
            | Self::UserUnlock(UserName { name }) => text("name", name),
            Self::TokenRotateSecret(_) | Self::UserList(_) | Self::Status(_) | Self::Metrics(_) => Ok(()),
        }
    }

    fn write(&self, params: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
        let mut line = Zeroizing::new(Vec::with_capacity(ROOM));
        serde_json::to_writer(
            &mut *line,
            &Outgoing { api_version: API_VERSION, method: self.method(), params },
        )?;
        line.push(b'\n');
        Ok(line)
    }
}

fn read<'a, P: Deserialize<'a>>(method: &str, params: &'a str) -> Result<P, ApiError> {
    serde_json::from_str(params).map_err(|error| bad(&error, method))
}

/// What is wrong with a line. Messages about types quote the value that was found, which could be a password in the wrong
/// place; so only the sort of fault and its place are told, and for fields the names that are expected.
fn bad(error: &serde_json::Error, method: &str) -> ApiError {
    let of = if method.is_empty() { "the request".to_owned() } else { format!("the parameters of {method}") };
    let text = error.to_string();
    // The last one: what comes before it is the sender's.
    let expected = text.rsplit_once(", expected ").map(|(_, expected)| expected);
    let message = match error.classify() {
        serde_json::error::Category::Syntax => format!("{of}: not JSON at column {}", error.column()),
        serde_json::error::Category::Eof => format!("{of}: not JSON: it ends too early"),
        _ if text.starts_with("missing field") || text.starts_with("not a SHA-256") => {
            format!("{of}: {}", text.split_once(" at line").map_or(&*text, |(text, _)| text))
        }
        _ => match expected.map(|text| text.split_once(" at line").map_or(text, |(text, _)| text)) {
            Some(expected) => format!("{of}: at column {}: expected {expected}", error.column()),
            None => format!("{of}: not valid at column {}", error.column()),
        },
    };
    ApiError::bad_request(message)
}

fn optional(field: &str, value: Option<&str>) -> Result<(), ApiError> {
    value.map_or(Ok(()), |value| text(field, value))
}

fn text(field: &str, value: &str) -> Result<(), ApiError> {
    bounded(field, value, MAX_NAME)
}

fn bounded(field: &str, value: &str, most: usize) -> Result<(), ApiError> {
    if value.is_empty() || value.len() > most {
        return Err(ApiError::bad_request(format!("{field}: 1 to {most} bytes")));
    }
    // They could not come from a client, and would forge lines in logs and control messages.
    if value.chars().any(char::is_control) {
        return Err(ApiError::bad_request(format!("{field}: a control character")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> (ErrorCode, String) {
        let error = Request::parse(line.as_bytes()).unwrap_err();
        (error.code, error.message)
    }

    #[test]
    fn what_is_no_request_is_told() {
        for (line, code, message) in [
            ("", ErrorCode::BadRequest, "ends too early"),
            ("GET / HTTP/1.1", ErrorCode::BadRequest, "not JSON"),
            ("{}", ErrorCode::BadRequest, "missing field `method`"),
            ("[]", ErrorCode::BadRequest, "the request"),
            ("\u{0}\u{1}", ErrorCode::BadRequest, "not JSON"),
            (r#"{"method":"status"} {}"#, ErrorCode::BadRequest, "not JSON"),
            (r#"{"method":"status","method":"metrics"}"#, ErrorCode::BadRequest, "the request"),
            (r#"{"method":"status","param":{}}"#, ErrorCode::BadRequest, "expected one of"),
            (r#"{"method":"status","params":{"a":1}}"#, ErrorCode::BadRequest, "the parameters of status"),
            (r#"{"method":"session.reap"}"#, ErrorCode::UnknownMethod, "no such method"),
            (r#"{"api_version":2,"method":"status"}"#, ErrorCode::UnsupportedVersion, "version 2"),
            (r#"{"method":"session.kill"}"#, ErrorCode::BadRequest, "missing field `target`"),
            (r#"{"method":"session.kill","params":{"target":{}}}"#, ErrorCode::BadRequest, "session.kill"),
            (
                r#"{"method":"session.kill","params":{"target":{"id":"1","username":"u"}}}"#,
                ErrorCode::BadRequest,
                "session.kill",
            ),
            (
                r#"{"method":"session.kill","params":{"target":{"id":"1"},"reasno":"x"}}"#,
                ErrorCode::BadRequest,
                "expected one of `target`, `reason`, `how`",
            ),
            (r#"{"method":"token.list","params":{"limit":0}}"#, ErrorCode::BadRequest, "limit: 1 to 1000"),
            (r#"{"method":"token.list","params":{"limit":-1}}"#, ErrorCode::BadRequest, "expected u32"),
            (r#"{"method":"user.lock","params":{"name":""}}"#, ErrorCode::BadRequest, "name: 1 to 255"),
            (
                r#"{"method":"user.lock","params":{"name":"a\nb"}}"#,
                ErrorCode::BadRequest,
                "control character",
            ),
            (
                r#"{"method":"token.revoke","params":{"target":{"certificate":"ab"}}}"#,
                ErrorCode::BadRequest,
                "not a SHA-256 fingerprint",
            ),
        ] {
            let (found, text) = refusal(line);
            assert_eq!(found, code, "{line}: {text}");
            assert!(text.contains(message), "{line}: {text}");
        }
        let long = format!(r#"{{"method":"user.lock","params":{{"name":"{}"}}}}"#, "x".repeat(256));
        assert_eq!(refusal(&long), (ErrorCode::BadRequest, "name: 1 to 255 bytes".to_owned()));
    }

    #[test]
    fn errors_and_debug_hold_no_password() {
        for line in [
            r#"{"method":"user.add","params":{"name":"a","otp":"hunter2"}}"#,
            r#"{"method":"user.add","params":{"name":"a","hunter2":"x"}}"#,
            r#"{"method":"user.add","params":"hunter2"}"#,
            r#"{"method":"user.add","params":{"name":"a","password":"hunter2"#,
            r#"{"method":"user.add","params":{"name":"a","password":["hunter2"]}}"#,
            r#"{"method":"user.add","params":{"name":"a","password":"hunter2\u0007"}}"#,
            r#"{"method":"hunter2"}"#,
            r#""hunter2""#,
            r#"{"method":"token.list","params":{"limit":"a, expected hunter2"}}"#,
        ] {
            let (_, text) = refusal(line);
            assert!(!text.contains("hunter2"), "{line}: {text}");
        }
        let good = r#"{"method":"user.add","params":{"name":"a","password":"hunter2"}}"#;
        let request = Request::parse(good.as_bytes()).unwrap();
        assert!(!format!("{request:?}").contains("hunter2"));
        assert!(String::from_utf8_lossy(&request.line().unwrap()).contains("hunter2"));
    }
}
