//! Hook scripts that record how they were called, then do what the test says.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::eventually;

/// One recorded call of a hook.
#[derive(Debug, Clone)]
pub struct Call {
    /// Arguments, without the program.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// What the file named by the last argument held when the hook began; `None` if that is no readable file.
    pub file: Option<String>,
}

impl Call {
    /// The value of an environment variable; panics when the hook was not given it.
    #[must_use]
    pub fn var(&self, name: &str) -> &str {
        self.env
            .get(name)
            .unwrap_or_else(|| panic!("the hook was not given {name}; it had {:?}", self.env.keys()))
    }
}

/// A folder of hook scripts and what they recorded.
#[derive(Debug)]
pub struct Hooks {
    folder: PathBuf,
}

impl Hooks {
    /// Scripts and records go below `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        let folder = folder.join("hooks");
        std::fs::create_dir_all(&folder).expect("a folder for hooks");
        Self { folder }
    }

    /// Writes (or replaces) the hook `name` and gives its path. After recording the call it runs `body`, a piece of
    /// shell that finds the last argument in `$last`; what `body` exits with is what the hook exits with.
    ///
    /// A running gateway sees a replaced body at the next call.
    pub fn script(&self, name: &str, body: &str) -> String {
        let records = self.folder.join(format!("{name}.calls"));
        std::fs::create_dir_all(&records).expect("a folder for records");
        let text = format!(
            "#!/bin/sh\n\
             record='{records}'/$(/usr/bin/date +%s%N)-$$\n\
             /usr/bin/mkdir \"$record.part\"\n\
             /usr/bin/env -0 >\"$record.part/env\"\n\
             last=\n\
             : >\"$record.part/args\"\n\
             for last in \"$@\"; do printf '%s\\0' \"$last\" >>\"$record.part/args\"; done\n\
             [ -f \"$last\" ] && /usr/bin/cat \"$last\" >\"$record.part/file\"\n\
             /usr/bin/mv \"$record.part\" \"$record\"\n\
             PATH=/usr/sbin:/usr/bin:/sbin:/bin\n\
             {body}\n",
            records = records.display(),
        );
        let path = self.folder.join(name);
        let fresh = self.folder.join(format!("{name}.new"));
        std::fs::write(&fresh, text).expect("write a hook");
        std::fs::set_permissions(&fresh, PermissionsExt::from_mode(0o755)).expect("make it executable");
        std::fs::rename(&fresh, &path).expect("put it in place at once");
        path.to_str().expect("a UTF-8 path").to_owned()
    }

    /// The recorded calls of a hook, oldest first.
    #[must_use]
    pub fn calls(&self, name: &str) -> Vec<Call> {
        let folder = self.folder.join(format!("{name}.calls"));
        let mut records: Vec<PathBuf> = std::fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("no hook {name}: {e}"))
            .map(|entry| entry.expect("a folder entry").path())
            .filter(|path| path.extension().is_none())
            .collect();
        records.sort();
        records.iter().map(|path| read(path)).collect()
    }

    /// Waits until the hook was called `count` times, and gives the calls.
    pub fn wait(&self, name: &str, count: usize, limit: Duration) -> Vec<Call> {
        eventually(&format!("{count} calls of the hook {name}"), limit, || {
            let calls = self.calls(name);
            (calls.len() >= count).then_some(calls)
        })
    }
}

fn read(record: &Path) -> Call {
    let strings = |name: &str| -> Vec<String> {
        let bytes = std::fs::read(record.join(name)).unwrap_or_else(|e| panic!("record without {name}: {e}"));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.split_terminator('\0').map(str::to_owned).collect()
    };
    let pair = |line: &String| line.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
    Call {
        args: strings("args"),
        env: strings("env").iter().filter_map(pair).collect(),
        file: std::fs::read_to_string(record.join("file")).ok(),
    }
}
