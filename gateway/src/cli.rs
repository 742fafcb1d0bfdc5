//! The command line of `tesserad`: OpenVPN's own form (`--directive value …`), and a few words of Tessera's.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tessera_proto::wrap::MAX_METADATA;

use crate::config::{self, Arg, Config, Directive, Place, Report};

/// Most metadata of an admin in a client key: its type takes a byte.
const MAX_USER_METADATA: usize = MAX_METADATA - 1;

/// What `--help` prints.
pub const HELP: &str = "\
tesserad: a VPN gateway for the OpenVPN protocol

  tesserad FILE                       run with this configuration
  tesserad --config FILE [--DIRECTIVE VALUE…]…
                                      the same; every directive may stand on the command line
  tesserad --check … [-o table|json]  only say what would become of each directive
  tesserad --genkey KIND [FILE]       make a key: tls-auth, secret, tls-crypt, auth-token, tls-crypt-v2-server,
                                      tls-crypt-v2-client (with --tls-crypt-v2 SERVERKEY; behind FILE may stand
                                      metadata in base64 in place of the time)
  tesserad --version
  tesserad --help

Exit codes: 0 as asked, 1 a fault at run time, 64 a wrong command line, 77 a permission is missing,
78 the configuration is refused.
";

/// What `--version` prints.
pub const VERSION: &str = concat!("tesserad ", env!("CARGO_PKG_VERSION"), "\n");

/// How the gateway starts the host of a plugin, followed by the number of the host's socket. `--help` does not tell: it is
/// no use to people.
pub const PLUGIN_HOST: &str = "--plugin-host";

/// The form of a check report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Which key `--genkey` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A static key for `tls-auth` or `tls-crypt` (`secret`, `tls-auth`, `tls-crypt`).
    Static,
    /// A server key for `tls-crypt-v2`.
    TlsCryptV2Server,
    /// A client key for `tls-crypt-v2`, wrapped with a server key.
    TlsCryptV2Client,
    /// A secret of generated tokens.
    AuthToken,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run the gateway, unless the report refuses it.
    Run(Box<Config>, Report),
    /// Only print the report.
    Check(Report, Output),
    /// Print the version.
    Version,
    /// Print the help.
    Help,
    /// Host a plugin; the gateway starts itself like this and nobody else should. The number of its socket.
    PluginHost(i32),
    /// Make a key.
    GenKey {
        /// Which.
        kind: KeyKind,
        /// Where it is written; `None`: standard output.
        file: Option<PathBuf>,
        /// The server key (`--tls-crypt-v2 FILE`), always there for [`KeyKind::TlsCryptV2Client`].
        server_key: Option<PathBuf>,
        /// What is sealed into a client key, decoded.
        metadata: Option<Vec<u8>>,
    },
}

/// Reads the command line; `argv` is without the program's own name. Files are read, and checked against the machine.
///
/// # Errors
/// What makes no sense about the command line, in one line. A wrong configuration is no error here: the report says so.
pub fn parse(argv: impl IntoIterator<Item = String>, working_directory: &Path) -> Result<Invocation, String> {
    let (mut check, mut output) = (false, None);
    let mut words: Vec<(u32, String)> = Vec::new();
    let mut argv = (1u32..).zip(argv).peekable();
    if argv.next_if(|(_, word)| word == PLUGIN_HOST).is_some() {
        return match (argv.next().and_then(|(_, number)| number.parse().ok()), argv.next()) {
            (Some(number), None) => Ok(Invocation::PluginHost(number)),
            _ => Err(format!("{PLUGIN_HOST} is how the gateway starts the hosts of its plugins")),
        };
    }
    while let Some((index, word)) = argv.next() {
        match word.as_str() {
            "--check" => check = true,
            "-o" | "--output" => {
                output = Some(match argv.next().as_ref().map(|(_, form)| form.as_str()) {
                    Some("table") => Output::Table,
                    Some("json") => Output::Json,
                    _ => return Err(format!("{word} takes 'table' or 'json'")),
                });
            }
            "--help" | "-h" => return Ok(Invocation::Help),
            "--version" | "-V" => return Ok(Invocation::Version),
            _ => words.push((index, word)),
        }
    }
    if output.is_some() && !check {
        return Err("-o is the form of --check".to_owned());
    }
    if words.is_empty() {
        return Err("no configuration: tesserad FILE, or tesserad --help".to_owned());
    }
    let directives = directives(words)?;
    if let Some(genkey) = directives.iter().find(|directive| directive.name == "genkey") {
        return gen_key(genkey, &directives, working_directory);
    }
    let (config, mut report) = config::load(directives, working_directory);
    config::check_host(&config, &mut report);
    Ok(if check {
        Invocation::Check(report, output.unwrap_or_default())
    } else {
        Invocation::Run(Box::new(config), report)
    })
}

/// Groups words into directives: a word with two dashes begins one, the others are its arguments.
fn directives(words: Vec<(u32, String)>) -> Result<Vec<Directive>, String> {
    if let [(argument, file)] = &words[..]
        && !file.starts_with('-')
    {
        return Ok(vec![config::include(file, Place::CommandLine { argument: *argument })]);
    }
    let mut directives: Vec<Directive> = Vec::new();
    for (argument, word) in words {
        let place = Place::CommandLine { argument };
        match (word.strip_prefix("--"), directives.last_mut()) {
            (Some(name), _) if !name.is_empty() => {
                directives.push(Directive { name: name.to_owned(), args: Vec::new(), inline: None, place });
            }
            (_, Some(directive)) => directive.args.push(Arg::new(word, place)),
            (_, None) => {
                return Err(format!(
                    "'{word}' is not a directive: they begin with two dashes (--config FILE)"
                ));
            }
        }
    }
    Ok(directives)
}

fn gen_key(
    genkey: &Directive,
    directives: &[Directive],
    working_directory: &Path,
) -> Result<Invocation, String> {
    let kind = match genkey.arg(0) {
        Some("secret" | "tls-auth" | "tls-crypt") => KeyKind::Static,
        Some("tls-crypt-v2-server") => KeyKind::TlsCryptV2Server,
        Some("tls-crypt-v2-client") => KeyKind::TlsCryptV2Client,
        Some("auth-token") => KeyKind::AuthToken,
        Some(other) => {
            return Err(format!(
                "--genkey does not make '{other}': secret, tls-auth, tls-crypt, auth-token, tls-crypt-v2-server, tls-crypt-v2-client"
            ));
        }
        None => return Err("--genkey takes a kind and a file".to_owned()),
    };
    let metadata = match (kind, genkey.arg(2)) {
        (_, None) => None,
        (KeyKind::TlsCryptV2Client, Some(text)) if genkey.args.len() == 3 => {
            let decoded =
                STANDARD.decode(text).map_err(|_| "--genkey: the metadata is not base64".to_owned())?;
            if decoded.len() > MAX_USER_METADATA {
                return Err(format!("--genkey: more than {MAX_USER_METADATA} bytes of metadata"));
            }
            Some(decoded)
        }
        _ => return Err("--genkey takes a kind and a file".to_owned()),
    };
    let mut server_key = None;
    for directive in directives {
        match directive.name.as_str() {
            "genkey" => {}
            "tls-crypt-v2" if kind == KeyKind::TlsCryptV2Client && directive.args.len() == 1 => {
                server_key = directive.arg(0).map(|file| working_directory.join(file));
            }
            other => return Err(format!("--{other} makes no sense with --genkey")),
        }
    }
    if kind == KeyKind::TlsCryptV2Client && server_key.is_none() {
        return Err("--genkey tls-crypt-v2-client needs the server's key: --tls-crypt-v2 FILE".to_owned());
    }
    let file = genkey.arg(1).map(|file| working_directory.join(file));
    Ok(Invocation::GenKey { kind, file, server_key, metadata })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str], directory: &Path) -> Result<Invocation, String> {
        parse(words.iter().map(|word| (*word).to_owned()), directory)
    }

    #[test]
    fn takes_the_argv_of_distributions() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("s.conf"), "server 10.8.0.0 255.255.255.0\nstatus other.log\n")
            .unwrap();
        let words = "--status /run/s.log --status-version 2 --suppress-timestamps --config s.conf";
        let words: Vec<&str> = words.split(' ').collect();
        let Invocation::Run(config, report) = run(&words, directory.path()).unwrap() else { panic!() };
        assert!(config.process.suppress_timestamps);
        assert_eq!(config.process.status.as_ref().unwrap().version, 2);
        assert_eq!(config.process.config_file.as_deref(), Some(directory.path().join("s.conf").as_path()));
        assert_eq!(report.directives[0].place, Place::CommandLine { argument: 1 });
        assert_eq!(report.directives[4].place.to_string(), "s.conf:1:1");
    }

    #[test]
    fn one_bare_word_is_the_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("s.conf"), "port 1\n").unwrap();
        for words in
            [&["--check", "s.conf", "-o", "json"][..], &["-o", "json", "--check", "--config", "s.conf"]]
        {
            let Invocation::Check(report, Output::Json) = run(words, directory.path()).unwrap() else {
                panic!()
            };
            assert_eq!(report.directives[1].directive, "port");
            assert!(report.refused());
        }
    }

    #[test]
    fn keys_and_words() {
        let here = Path::new("/x");
        assert!(matches!(run(&["--version"], here), Ok(Invocation::Version)));
        assert!(matches!(run(&["a", "b", "--help"], here), Ok(Invocation::Help)));
        assert!(matches!(run(&["--plugin-host", "7"], here), Ok(Invocation::PluginHost(7))));
        let Ok(Invocation::GenKey { kind, file, .. }) = run(&["--genkey", "tls-crypt", "k"], here) else {
            panic!()
        };
        assert_eq!((kind, file.unwrap()), (KeyKind::Static, PathBuf::from("/x/k")));
        let words = ["--tls-crypt-v2", "s", "--genkey", "tls-crypt-v2-client"];
        let Ok(Invocation::GenKey { kind, file, server_key, .. }) = run(&words, here) else { panic!() };
        assert_eq!(
            (kind, file, server_key.unwrap()),
            (KeyKind::TlsCryptV2Client, None, PathBuf::from("/x/s"))
        );
        let words = ["--tls-crypt-v2", "s", "--genkey", "tls-crypt-v2-client", "k", "YWxpY2U="];
        let Ok(Invocation::GenKey { metadata, .. }) = run(&words, here) else { panic!() };
        assert_eq!(metadata.as_deref(), Some(&b"alice"[..]));
        for wrong in [
            &["--tls-crypt-v2", "s", "--genkey", "tls-crypt-v2-client", "k", "*"][..],
            &["--genkey", "auth-token", "k", "YWxpY2U="],
            &[],
            &["a", "b"],
            &["a", "--dev", "tun"],
            &["-o", "json", "--config", "x"],
            &["--check", "x", "-o", "xml"],
            &["--genkey"],
            &["--plugin-host"],
            &["--plugin-host", "x"],
            &["--plugin-host", "7", "--verb", "3"],
            &["--genkey", "dsa", "k"],
            &["--genkey", "tls-crypt-v2-client", "k"],
            &["--genkey", "secret", "k", "--dev", "tun"],
        ] {
            assert!(run(wrong, here).is_err(), "{wrong:?}");
        }
    }
}
