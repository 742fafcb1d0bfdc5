//! The configuration against this machine: are the files, programs, directories, users and groups there?

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Place};
use super::model::{Config, Log, Source, Wrap};
use super::report::Report;

/// Permission bits by which others than the owner can read or write a file.
const OTHERS: u32 = 0o006;
/// Permission bits to run a program.
const EXECUTE: u32 = 0o111;

/// Adds to the report what this machine lacks: all of it, not only the first.
pub fn check_host(config: &Config, report: &mut Report) {
    let mut host = Host { config, report };
    let tls = &config.tls;
    let wrap = match &config.wrap {
        Wrap::None => None,
        Wrap::TlsAuth { key, .. } => Some(("tls-auth", key)),
        Wrap::TlsCrypt { key } => Some(("tls-crypt", key)),
        Wrap::TlsCryptV2 { key, .. } => Some(("tls-crypt-v2", key)),
    };
    host.source("ca", tls.ca.as_ref(), false);
    host.source("cert", tls.cert.as_ref(), false);
    host.source("key", tls.key.as_ref(), true);
    host.source("extra-certs", tls.extra_certs.as_ref(), false);
    host.source("crl-verify", tls.crl.as_ref(), false);
    if let Some((name, key)) = wrap {
        host.source(name, Some(key), true);
    }
    if let Some(directory) = &config.auth.client_config_dir {
        host.directory("client-config-dir", directory);
    }
    if config.hooks.commands().next().is_some() || !config.hooks.plugins.is_empty() {
        host.directory("tmp-dir", &config.hooks.tmp_dir);
    }
    for (name, command) in config.hooks.commands() {
        host.program(name, Path::new(&command.argv[0]), &command.place);
    }
    for plugin in &config.hooks.plugins {
        host.shared_object(&plugin.file, &plugin.place);
    }
    for secret in config.auth.gen_token.iter().flat_map(|token| &token.secrets) {
        host.source("auth-gen-token-secret", Some(secret), true);
    }
    if let Some(users) = &config.auth.users {
        host.source("auth-file", Some(&Source::File(users.clone())), false);
    }
    if let Some(service) = &config.auth.pam_service {
        host.service(service);
    }
    if let Some(user) = &config.process.user {
        let found = nix::unistd::User::from_name(user).map(|user| user.is_some());
        host.account("user", user, found);
    }
    if let Some(group) = &config.process.group {
        let found = nix::unistd::Group::from_name(group).map(|group| group.is_some());
        host.account("group", group, found);
    }
    let log = match &config.process.log {
        Log::Stderr => None,
        Log::File(file) => Some(("log", file)),
        Log::Append(file) => Some(("log-append", file)),
    };
    let persist = config.network.persist.as_ref().map(|persist| ("ifconfig-pool-persist", &persist.file));
    let pid = config.process.writepid.as_ref().map(|file| ("writepid", file));
    let store = config.tessera.store.as_ref().map(|directory| ("store", directory));
    for (name, file) in [log, persist, pid, store].into_iter().flatten() {
        host.parent(name, file);
    }
}

struct Host<'a> {
    config: &'a Config,
    report: &'a mut Report,
}

impl Host<'_> {
    /// Where the directive was given: the last row with its name.
    fn place(&self, name: &str) -> Place {
        let row = self.report.directives.iter().rev().find(|row| row.directive == name);
        row.map_or(Place::Whole, |row| row.place.clone())
    }

    fn error(&mut self, place: &Place, message: String, hint: Option<String>) {
        self.report.problems.push(Diagnostic { hint, ..Diagnostic::error(place, message) });
    }

    fn source(&mut self, name: &str, source: Option<&Source>, secret: bool) {
        let Some(Source::File(path)) = source else { return };
        let place = self.place(name);
        match std::fs::File::open(path).and_then(|file| file.metadata()) {
            Err(error) => {
                let hint = self.elsewhere(path);
                self.error(&place, format!("{name}: cannot read '{}': {error}", path.display()), hint);
            }
            Ok(metadata) if metadata.is_dir() => {
                self.error(&place, format!("{name}: '{}' is a directory", path.display()), None);
            }
            Ok(metadata) if secret && metadata.mode() & OTHERS != 0 => {
                let message = format!("{name}: everybody can read or write '{}'", path.display());
                let problem = Diagnostic::warning(&place, message);
                self.report.problems.push(problem.hint(format!("chmod 600 {}", path.display())));
            }
            Ok(_) => {}
        }
    }

    /// A hint if the file lies beside the configuration file, where people often think it is looked for.
    fn elsewhere(&self, path: &Path) -> Option<String> {
        let beside: PathBuf = self.config.process.config_file.as_ref()?.parent()?.join(path.file_name()?);
        if beside == path || !beside.is_file() {
            return None;
        }
        let directory =
            beside.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(format!(
            "relative names start at the working directory; for the one beside the configuration use 'cd {}'",
            directory.display()
        ))
    }

    fn directory(&mut self, name: &str, path: &Path) {
        if !path.is_dir() {
            let place = self.place(name);
            self.error(&place, format!("{name}: '{}' is not a directory", path.display()), None);
        }
    }

    fn parent(&mut self, name: &str, path: &Path) {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
            && !parent.is_dir()
        {
            let place = self.place(name);
            let message = format!("{name}: the directory '{}' does not exist", parent.display());
            self.error(&place, message, Some(format!("mkdir -p {}", parent.display())));
        }
    }

    fn program(&mut self, name: &str, path: &Path, place: &Place) {
        match std::fs::metadata(path) {
            Err(error) => {
                let hint = self.elsewhere(path);
                self.error(place, format!("{name}: cannot run '{}': {error}", path.display()), hint);
            }
            Ok(metadata) if !metadata.is_file() || metadata.permissions().mode() & EXECUTE == 0 => {
                let hint = Some(format!("chmod 755 {}", path.display()));
                self.error(place, format!("{name}: '{}' is not a program", path.display()), hint);
            }
            Ok(_) => {}
        }
    }

    /// Linux-PAM looks in both.
    fn service(&mut self, name: &str) {
        if !["/etc/pam.d", "/usr/lib/pam.d"].iter().any(|folder| Path::new(folder).join(name).is_file()) {
            let place = self.place("auth-pam");
            let hint = Some(format!("it is the file /etc/pam.d/{name}"));
            self.error(&place, format!("auth-pam: there is no PAM service '{name}'"), hint);
        }
    }

    fn shared_object(&mut self, path: &Path, place: &Place) {
        if path.is_file() {
            return;
        }
        let hint = self.elsewhere(path);
        self.error(place, format!("plugin: there is no file '{}'", path.display()), hint);
    }

    fn account(&mut self, kind: &str, name: &str, found: nix::Result<bool>) {
        let place = self.place(kind);
        match found {
            Ok(true) => {}
            Ok(false) => {
                let hint = (name == "nogroup").then(|| "on this system it may be called 'nobody'".to_owned());
                self.error(&place, format!("there is no {kind} '{name}'"), hint);
            }
            Err(error) => self.error(&place, format!("cannot look up the {kind} '{name}': {error}"), None),
        }
    }
}
