//! The `tessera` command against the control socket of the gateway under test.

use serde_json::Value;

use crate::command::feed;
use crate::server::built;
use crate::topology::Net;

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

    /// As [`Cli::run_with`], without input.
    pub fn run(&self, words: &str) -> Value {
        self.run_with(words, "")
    }
}
