//! A point in time, for people and for programs.

use std::fmt;
use std::str::FromStr;

use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Seconds since 1970. In JSON an object with `time` (RFC 3339, UTC) and `unix`; who reads it takes `unix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// Seconds from `earlier` to this; 0 if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// RFC 3339 in UTC; `@` and the seconds for years that have no such form.
impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = i64::try_from(self.0)
            .ok()
            .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
            .and_then(|time| time.format(&Rfc3339).ok());
        match text {
            Some(text) => f.pad(&text),
            None => f.pad(&format!("@{}", self.0)),
        }
    }
}

/// A text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadMoment;

impl fmt::Display for BadMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a time: expected RFC 3339, as 2026-08-20T10:00:00Z, or seconds since 1970")
    }
}

impl std::error::Error for BadMoment {}

/// RFC 3339 with any offset, or seconds since 1970, with or without `@`. Parts of a second are dropped.
impl FromStr for Moment {
    type Err = BadMoment;

    fn from_str(text: &str) -> Result<Self, BadMoment> {
        let seconds = text.strip_prefix('@').unwrap_or(text);
        if !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit()) {
            return seconds.parse().map(Self).map_err(|_| BadMoment);
        }
        let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| BadMoment)?;
        u64::try_from(time.unix_timestamp()).map(Self).map_err(|_| BadMoment)
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Moment", 2)?;
        object.serialize_field("time", &self.to_string())?;
        object.serialize_field("unix", &self.0)?;
        object.end()
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Unix {
            unix: u64,
        }
        Unix::deserialize(deserializer).map(|object| Self(object.unix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_agree() {
        let moment = Moment(1_787_220_000);
        assert_eq!(moment.to_string(), "2026-08-20T10:00:00Z");
        for text in ["2026-08-20T10:00:00Z", "2026-08-20T12:00:00.9+02:00", "1787220000", "@1787220000"] {
            assert_eq!(text.parse(), Ok(moment), "{text}");
        }
        for text in ["", "@", "yesterday", "2026-08-20", "1969-12-31T23:59:59Z", "99999999999999999999", "-1"]
        {
            assert_eq!(text.parse::<Moment>(), Err(BadMoment), "{text}");
        }
        let json = serde_json::to_string(&moment).unwrap();
        assert_eq!(json, r#"{"time":"2026-08-20T10:00:00Z","unix":1787220000}"#);
        assert_eq!(serde_json::from_str::<Moment>(&json).unwrap(), moment);
    }

    #[test]
    fn the_end_of_time_is_no_fault() {
        assert_eq!(Moment(u64::MAX).to_string(), format!("@{}", u64::MAX));
        assert_eq!(Moment(u64::MAX).to_string().parse(), Ok(Moment(u64::MAX)));
    }
}
