//! What clients put into the password field, and what they are asked.
//!
//! ```text
//! password                              the password alone
//! password123456                        with a one-time code behind it
//! SCRV1:<b64 password>:<b64 response>   answer to a static challenge (the client's configuration asks)
//! CRV1::<state>::<response>             answer to a dynamic challenge (we asked, with AUTH_FAILED)
//! ```

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, engine::general_purpose::STANDARD};
use tessera_proto::Secret;

/// Longest password field that is looked at, in bytes. Stock clients send 127, with smart cards up to 4095.
pub const MAX_PRESENTED: usize = 4096;
/// Longest answer to a challenge in bytes: a one-time code with much room.
pub const MAX_RESPONSE: usize = 256;
/// Longest prompt in bytes: what a dialogue of a client shows, and what fits into a control message with the rest.
const MAX_PROMPT: usize = 200;

/// Clients pad; some apps do not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The content of a password field, taken apart.
#[derive(Debug)]
pub enum Presented {
    /// A password, perhaps with a code behind it.
    Plain(Secret<String>),
    /// Password and response of a static challenge. The response may be empty.
    Static {
        /// What the user knows.
        password: Secret<String>,
        /// What the client's own question was answered with.
        response: Secret<String>,
    },
    /// State and response of a dynamic challenge.
    Dynamic {
        /// What we gave out.
        state: Secret<String>,
        /// What our question was answered with.
        response: Secret<String>,
    },
    /// Begins like a challenge's answer and is none, or is too long.
    Malformed,
}

impl Presented {
    /// Takes a password field apart. Total: every text is one of the four.
    #[must_use]
    pub fn parse(field: &Secret<String>) -> Self {
        let text = field.expose().as_str();
        if text.len() > MAX_PRESENTED {
            return Self::Malformed;
        }
        if let Some(rest) = text.strip_prefix("SCRV1:") {
            return Self::parse_static(rest).unwrap_or(Self::Malformed);
        }
        if let Some(rest) = text.strip_prefix("CRV1:") {
            return Self::parse_dynamic(rest).unwrap_or(Self::Malformed);
        }
        Self::Plain(Secret::new(text.to_owned()))
    }

    fn parse_static(rest: &str) -> Option<Self> {
        let (password, response) = rest.split_once(':')?;
        let (password, response) = (decode(password)?, decode(response)?);
        (response.expose().len() <= MAX_RESPONSE).then_some(Self::Static { password, response })
    }

    fn parse_dynamic(rest: &str) -> Option<Self> {
        let (state, response) = rest.strip_prefix(':')?.split_once("::")?;
        if state.is_empty() || state.len() > MAX_RESPONSE || response.len() > MAX_RESPONSE {
            return None;
        }
        let (state, response) = (Secret::new(state.to_owned()), Secret::new(response.to_owned()));
        Some(Self::Dynamic { state, response })
    }
}

/// Base64 of a text, decoded without leaving copies behind.
fn decode(text: &str) -> Option<Secret<String>> {
    let mut bytes = Secret::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let len = LENIENT.decode_slice(text, bytes.expose_mut()).ok()?;
    std::str::from_utf8(&bytes.expose()[..len]).ok().map(|text| Secret::new(text.to_owned()))
}

/// What follows `AUTH_FAILED,` when a client is to ask its user and come back: an answer is wanted (`R`) and may be seen
/// while it is typed (`E`, if `echo`).
#[must_use]
pub fn dynamic_challenge(state: &str, user: &str, prompt: &str, echo: bool) -> Secret<String> {
    let flags = if echo { "R,E" } else { "R" };
    Secret::new(format!("CRV1:{flags}:{state}:{}:{}", STANDARD.encode(user), sanitize_prompt(prompt)))
}

/// What follows `INFO_PRE,` when a client is to ask its user within the session.
#[must_use]
pub fn cr_text(prompt: &str, echo: bool) -> String {
    let flags = if echo { "R,E" } else { "R" };
    format!("CR_TEXT:{flags}:{}", sanitize_prompt(prompt))
}

/// A prompt that can be sent: one line, printable, of bounded length.
#[must_use]
pub fn sanitize_prompt(prompt: &str) -> String {
    let mut clean = String::new();
    for c in prompt.trim().chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if clean.len() + c.len_utf8() > MAX_PROMPT {
            break;
        }
        clean.push(c);
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Presented {
        Presented::parse(&Secret::new(text.to_owned()))
    }

    #[test]
    fn the_forms() {
        assert!(matches!(parse("pw"), Presented::Plain(p) if p.expose() == "pw"));
        assert!(matches!(parse(""), Presented::Plain(p) if p.expose().is_empty()));
        assert!(matches!(parse("SCRV1"), Presented::Plain(_)));
        assert!(matches!(parse("scrv1:cHc=:MTIz"), Presented::Plain(_)));
        for text in ["SCRV1:cHc=:MTIz", "SCRV1:cHc:MTIz"] {
            let Presented::Static { password, response } = parse(text) else { panic!("{text}") };
            assert_eq!((password.expose().as_str(), response.expose().as_str()), ("pw", "123"));
        }
        assert!(
            matches!(parse("SCRV1:cHc=:"), Presented::Static { response, .. } if response.expose().is_empty())
        );
        let Presented::Dynamic { state, response } = parse("CRV1::abc::12::3") else { panic!() };
        assert_eq!((state.expose().as_str(), response.expose().as_str()), ("abc", "12::3"));
        let long = format!("SCRV1:cHc=:{}", STANDARD.encode("1".repeat(MAX_RESPONSE + 1)));
        for text in [
            "SCRV1:",
            "SCRV1:cHc=",
            "SCRV1:cHc=:MTIz:",
            "SCRV1:c:MTIz",
            "SCRV1:/w==:MTIz",
            "SCRV1:c c=:MTIz",
            "CRV1:",
            "CRV1::",
            "CRV1::a",
            "CRV1::a:b",
            "CRV1::::b",
            "CRV1:R,E:a:b:c",
            &long,
            &"x".repeat(MAX_PRESENTED + 1),
        ] {
            assert!(matches!(parse(text), Presented::Malformed), "{text}");
        }
    }

    #[test]
    fn questions() {
        let text = dynamic_challenge("abc", "alice", "Code:\n\"now\"", true);
        assert_eq!(text.expose(), "CRV1:R,E:abc:YWxpY2U=:Code: \"now\"");
        assert_eq!(cr_text("PIN\0", false), "CR_TEXT:R:PIN ");
        assert_eq!(sanitize_prompt(&"ä".repeat(500)).len(), MAX_PROMPT);
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in "(SCRV1:|CRV1:|CRV1::)?[A-Za-z0-9+/=:\\x00-\\xff]{0,120}") {
            parse(&text);
        }

        #[test]
        fn what_clients_build_is_understood(password in ".{0,60}", response in ".{0,60}") {
            let text = format!("SCRV1:{}:{}", STANDARD.encode(&password), STANDARD.encode(&response));
            let Presented::Static { password: p, response: r } = parse(&text) else { panic!() };
            prop_assert_eq!((p.expose(), r.expose()), (&password, &response));
        }
    }
}
