//! Handlers of accounts and hooks.

use super::{Draft, Effect, Outcome, bad, text, word};
use crate::config::diagnostic::Diagnostic;
use crate::config::lex::{self, Directive};
use crate::config::model::{
    AuthHook, CertificatePolicy, CredentialsVia, HookCommand, PluginFile, ScriptSecurity, Variable,
};

/// Most plugins; each is a process of its own.
const MAX_PLUGINS: usize = 16;
/// Longest name of a service or an issuer.
const MAX_NAME: usize = 64;
/// Most variables for hooks.
const MAX_VARIABLES: usize = 1024;

/// Splits the command of a hook and makes its program's path absolute.
fn command(draft: &Draft, d: &Directive) -> Result<HookCommand, Diagnostic> {
    let mut argv = lex::split_command(text(d, 0)?).map_err(|message| bad(d, 0, message))?;
    let Some(program) = argv.first_mut().filter(|program| !program.is_empty()) else {
        return Err(bad(d, 0, "the command is empty"));
    };
    match draft.path(program).into_os_string().into_string() {
        Ok(path) => *program = path,
        Err(_) => {
            return Err(
                bad(d, 0, "the working directory's name is not UTF-8").hint("name the program by '/…'")
            );
        }
    }
    Ok(HookCommand { argv, place: d.place.clone() })
}

pub(crate) fn verify_client_cert(draft: &mut Draft, d: &Directive) -> Outcome {
    let policies = [
        ("none", CertificatePolicy::None),
        ("optional", CertificatePolicy::Optional),
        ("require", CertificatePolicy::Require),
    ];
    draft.config.auth.certificates =
        if d.args.is_empty() { CertificatePolicy::Require } else { word(d, 0, &policies)? };
    Ok(Effect::Honoured)
}

pub(crate) fn client_cert_not_required(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.auth.certificates = CertificatePolicy::None;
    Ok(Effect::Noted("taken as 'verify-client-cert none', its name since OpenVPN 2.4".to_owned()))
}

pub(crate) fn username_as_common_name(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.auth.username_as_common_name = true;
    Ok(Effect::Honoured)
}

pub(crate) fn auth_user_pass_optional(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.auth.optional_credentials = true;
    Ok(Effect::Honoured)
}

pub(crate) fn client_config_dir(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.auth.client_config_dir = Some(draft.path(text(d, 0)?));
    Ok(Effect::Honoured)
}

pub(crate) fn ccd_exclusive(draft: &mut Draft, _: &Directive) -> Outcome {
    draft.config.auth.ccd_exclusive = true;
    Ok(Effect::Honoured)
}

pub(crate) fn script_security(draft: &mut Draft, d: &Directive) -> Outcome {
    let levels = [
        ("0", ScriptSecurity::Nothing),
        ("1", ScriptSecurity::System),
        ("2", ScriptSecurity::Hooks),
        ("3", ScriptSecurity::Passwords),
    ];
    if d.args.len() > 1 {
        return Err(bad(d, 1, "how programs are run cannot be chosen since OpenVPN 2.3").hint("leave it out"));
    }
    draft.config.hooks.script_security = word(d, 0, &levels)?;
    Ok(Effect::Honoured)
}

pub(crate) fn auth_user_pass_verify(draft: &mut Draft, d: &Directive) -> Outcome {
    let via = word(d, 1, &[("via-env", CredentialsVia::Env), ("via-file", CredentialsVia::File)])?;
    draft.config.hooks.auth_user_pass_verify = Some(AuthHook { command: command(draft, d)?, via });
    Ok(Effect::Honoured)
}

pub(crate) fn client_connect(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.hooks.client_connect = Some(command(draft, d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn client_disconnect(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.hooks.client_disconnect = Some(command(draft, d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn learn_address(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.hooks.learn_address = Some(command(draft, d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn tls_verify(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.hooks.tls_verify = Some(command(draft, d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn tls_crypt_v2_verify(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.hooks.tls_crypt_v2_verify = Some(command(draft, d)?);
    Ok(Effect::Honoured)
}

pub(crate) fn client_crresponse(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.hooks.client_crresponse = Some(command(draft, d)?);
    Ok(Effect::Honoured)
}

/// A name without a directory is looked for among the system's plugins, as OpenVPN does.
pub(crate) fn plugin(draft: &mut Draft, d: &Directive) -> Outcome {
    let name = text(d, 0)?;
    if name.is_empty() {
        return Err(bad(d, 0, "the file name is empty"));
    }
    if draft.config.hooks.plugins.len() >= MAX_PLUGINS {
        return Err(bad(d, 0, format!("more than {MAX_PLUGINS} plugins")));
    }
    let file = crate::plugins::locate(name, &draft.base);
    // A single argument is split into words once more, as OpenVPN does: `plugin x.so "login login USERNAME"`.
    let args = match &d.args[1..] {
        [one] => lex::split_command(one.as_str()).map_err(|message| bad(d, 1, message))?,
        many => many.iter().map(|arg| arg.as_str().to_owned()).collect(),
    };
    draft.config.hooks.plugins.push(PluginFile { file, args, place: d.place.clone() });
    Ok(Effect::Honoured)
}

pub(crate) fn auth_file(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.auth.users = Some(draft.path(text(d, 0)?));
    Ok(Effect::Honoured)
}

pub(crate) fn auth_pam(draft: &mut Draft, d: &Directive) -> Outcome {
    let service = short_name(d)?;
    if service.starts_with('.') || service.contains('/') {
        return Err(bad(d, 0, format!("'{service}' is not the name of a PAM service"))
            .hint("it is a file in /etc/pam.d"));
    }
    draft.config.auth.pam_service = Some(service);
    Ok(Effect::Honoured)
}

pub(crate) fn otp_issuer(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.auth.otp_issuer = short_name(d)?;
    Ok(Effect::Honoured)
}

fn short_name(d: &Directive) -> Result<String, Diagnostic> {
    let name = text(d, 0)?;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(bad(d, 0, format!("1 to {MAX_NAME} printable characters are wanted")));
    }
    Ok(name.to_owned())
}

pub(crate) fn setenv(draft: &mut Draft, d: &Directive) -> Outcome {
    variable(draft, d, text(d, 0)?)
}

pub(crate) fn setenv_safe(draft: &mut Draft, d: &Directive) -> Outcome {
    let name = format!("OPENVPN_{}", text(d, 0)?);
    variable(draft, d, &name)
}

fn variable(draft: &mut Draft, d: &Directive, name: &str) -> Outcome {
    if name == "FORWARD_COMPATIBLE" {
        return Ok(Effect::Noted("directives that nobody knows are left out instead of refused".to_owned()));
    }
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(bad(d, 0, format!("'{name}' is not the name of a variable (letters, digits, '_')")));
    }
    if draft.config.hooks.setenv.len() >= MAX_VARIABLES {
        return Err(bad(d, 0, format!("more than {MAX_VARIABLES} variables")));
    }
    let value = d.arg(1).unwrap_or_default().to_owned();
    draft.config.hooks.setenv.push(Variable { name: name.to_owned(), value });
    Ok(Effect::Honoured)
}

pub(crate) fn tmp_dir(draft: &mut Draft, d: &Directive) -> Outcome {
    draft.config.hooks.tmp_dir = draft.path(text(d, 0)?);
    Ok(Effect::Honoured)
}
