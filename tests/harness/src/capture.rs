//! Packets of an interface, captured by `tshark` and asked about afterwards.

use std::path::PathBuf;
use std::time::Duration;

use crate::command::run;
use crate::netns::Namespace;
use crate::process::Process;

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Captures on `interface` in `ns` what the capture filter lets through (`""` for everything) into `folder`.
    #[must_use]
    pub fn start(ns: &Namespace, interface: &str, filter: &str, folder: &std::path::Path) -> Self {
        let file = folder.join(format!("{interface}.pcapng"));
        let path = file.to_str().expect("a UTF-8 path");
        let argv = ["tshark", "-q", "-i", interface, "-f", filter, "-w", path];
        let mut process =
            Process::start("tshark", ns, &argv, &folder.join(format!("{interface}.tshark.log")));
        process.wait_for(&["Capturing on"], Duration::from_secs(15));
        // tshark says so just before its capturing child has opened the interface and written the file's head.
        crate::clock::eventually("head of the capture file", Duration::from_secs(10), || {
            std::fs::metadata(&file).ok().filter(|meta| meta.len() > 0)
        });
        Self { process, file }
    }

    /// Ends the capture and gives `fields` of the packets that match the display filter, one line each, tab-separated.
    #[must_use]
    pub fn finish(mut self, display_filter: &str, fields: &[&str]) -> Vec<String> {
        // The kernel hands packets over in batches of up to a second.
        crate::clock::pause(Duration::from_millis(1100));
        self.process.signal(nix::sys::signal::Signal::SIGINT);
        self.process.wait_end(Duration::from_secs(10));
        let path = self.file.to_str().expect("a UTF-8 path");
        let mut argv = vec!["tshark", "-r", path, "-Y", display_filter, "-T", "fields"];
        for field in fields {
            argv.extend(["-e", field]);
        }
        let text = run(&argv);
        text.lines().filter(|line| !line.starts_with("Running as user")).map(str::to_owned).collect()
    }
}
