//! The `tessera` command against the control socket of the gateway under test.

use serde_json::Value;

use crate::command::feed;
use crate::server::built;
use crate::topology::Net;

/// What was told about a user that was added.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// The secret of the one-time codes in base32; empty without them.
    pub secret: String,
    /// The same as a URI; empty without codes.
    pub uri: String,
}

/// The command and the socket it talks to.
#[derive(Debug)]
pub struct Cli {
    program: String,
    socket: String,
}

impl Cli {
    /// For a gateway that is started with `control-socket` and [`Cli::socket`].
    #[must_use]
    pub fn new(net: &Net) -> Self {
        let text = |path: std::path::PathBuf| path.to_str().expect("a UTF-8 path").to_owned();
        Self {
            program: text(built("tessera", "TESSERA_E2E_TESSERA")),
            socket: text(net.folder().join("control.sock")),
        }
    }

    /// Where the gateway shall listen.
    #[must_use]
    pub fn socket(&self) -> &str {
        &self.socket
    }

    /// Runs a command (words separated by blanks) with `input` on its standard input, and gives what it said as JSON
    /// (null when it said nothing). Panics when it fails.
    pub fn run_with(&self, words: &str, input: &str) -> Value {
        let mut argv = vec![self.program.as_str(), "--socket", &self.socket];
        argv.extend(words.split_whitespace());
        argv.extend(["-o", "json"]);
        let finished = feed(&argv, input);
        assert!(finished.ok, "tessera {words} failed: {}", finished.text);
        let text = finished.text.trim();
        if text.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(text).unwrap_or_else(|e| panic!("tessera {words} said no JSON ({e}): {text}"))
    }

    /// Adds a user to the gateway's own file, with one-time codes if `otp`.
    pub fn add_user(&self, name: &str, password: &str, otp: bool) -> NewUser {
        let otp = if otp { " --otp" } else { "" };
        let answer =
            self.run_with(&format!("user add {name}{otp} --password-stdin"), &format!("{password}\n"));
        let otp = &answer["credentials"]["otp"];
        let text = |field: &str| otp[field].as_str().unwrap_or_default().to_owned();
        NewUser { secret: text("secret"), uri: text("uri") }
    }

    /// The ids of all sessions.
    #[must_use]
    pub fn sessions(&self) -> Vec<String> {
        let answer = self.run("session list");
        let list = answer["sessions"].as_array().expect("a list of sessions");
        list.iter().map(|session| session["id"].as_str().expect("an id").to_owned()).collect()
    }

    /// The value of a metric, named with its labels: `tessera_data_drops_total{reason="spoofed"}`.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        let answer = self.run("metrics");
        let text = answer["metrics"].as_str().expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no metric {name}:\n{text}"));
        value.parse().unwrap_or_else(|e| panic!("{name} is {value}: {e}"))
    }

    /// As [`Cli::run_with`], without input.
    pub fn run(&self, words: &str) -> Value {
        self.run_with(words, "")
    }
}
