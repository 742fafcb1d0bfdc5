//! Everything that needs C: the PAM library, and a few calls about processes.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::ptr::{self, NonNull};

use nix::unistd::ForkResult;
use tessera_proto::Secret;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::wire::{MAX_TEXT, Verdict, printable};

const LIBRARY: &CStr = c"libpam.so.0";

// Values of Linux-PAM's headers (`_pam_types.h`), part of its ABI.
const PAM_SUCCESS: c_int = 0;
const PAM_BUF_ERR: c_int = 5;
const PAM_CONV_ERR: c_int = 19;
/// Codes that are a definite no: permission denied, authentication error, insufficient credentials, unknown user, tries used
/// up, new password required, account expired, credentials unavailable or expired, password expired. And the system error: it
/// is what `pam_exec` says when its program says no, and a no that looks like a fault would be guessed at without end.
const REFUSALS: [c_int; 11] = [4, 6, 7, 8, 10, 11, 12, 13, 15, 16, 27];
const PAM_TTY: c_int = 3;
const PAM_RHOST: c_int = 4;
const PAM_PROMPT_ECHO_OFF: c_int = 1;
const PAM_PROMPT_ECHO_ON: c_int = 2;
const PAM_ERROR_MSG: c_int = 3;
const PAM_TEXT_INFO: c_int = 4;
/// Most messages of one call, `PAM_MAX_NUM_MSG`.
const MAX_MESSAGES: c_int = 32;
/// What modules take for the terminal.
const TTY: &CStr = c"tessera";

#[repr(C)]
struct Message {
    style: c_int,
    text: *const c_char,
}

#[repr(C)]
struct Response {
    text: *mut c_char,
    /// Not used, always 0.
    _retcode: c_int,
}

type Converse = extern "C" fn(c_int, *mut *const Message, *mut *mut Response, *mut c_void) -> c_int;

#[repr(C)]
struct Conv {
    converse: Converse,
    data: *mut c_void,
}

#[repr(C)]
struct PamHandle {
    _opaque: [u8; 0],
}

type Start = unsafe extern "C" fn(*const c_char, *const c_char, *const Conv, *mut *mut PamHandle) -> c_int;
type StartConfdir = unsafe extern "C" fn(
    *const c_char,
    *const c_char,
    *const Conv,
    *const c_char,
    *mut *mut PamHandle,
) -> c_int;
type SetItem = unsafe extern "C" fn(*mut PamHandle, c_int, *const c_void) -> c_int;
type Step = unsafe extern "C" fn(*mut PamHandle, c_int) -> c_int;
type StrError = unsafe extern "C" fn(*mut PamHandle, c_int) -> *const c_char;

/// The PAM library, open for the life of the process.
pub(super) struct Library {
    start: Start,
    /// Linux-PAM 1.4 and later.
    start_confdir: Option<StartConfdir>,
    set_item: SetItem,
    authenticate: Step,
    acct_mgmt: Step,
    end: Step,
    strerror: StrError,
}

/// Which service, and where it is described.
pub(super) struct Service {
    pub(super) name: CString,
    pub(super) confdir: Option<CString>,
}

/// One login as the modules see it.
pub(super) struct Login {
    pub(super) user: CString,
    pub(super) rhost: CString,
    pub(super) answers: Vec<Secret<String>>,
}

impl Library {
    /// Opens the library.
    pub(super) fn open() -> Result<Self, String> {
        // SAFETY: the name is a C string; initialisers of libpam have no demands.
        let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        let library =
            NonNull::new(library).ok_or_else(|| format!("cannot open libpam.so.0: {}", dl_error()))?;
        let need = |name: &CStr| {
            symbol(library, name).ok_or_else(|| format!("libpam.so.0 has no {}", name.to_string_lossy()))
        };
        let start = need(c"pam_start")?;
        let set_item = need(c"pam_set_item")?;
        let authenticate = need(c"pam_authenticate")?;
        let acct_mgmt = need(c"pam_acct_mgmt")?;
        let end = need(c"pam_end")?;
        let strerror = need(c"pam_strerror")?;
        let start_confdir = symbol(library, c"pam_start_confdir");
        Ok(Self {
            // SAFETY: `pam_start` has this signature in every version of the ABI `.so.0`.
            start: unsafe { std::mem::transmute::<*mut c_void, Start>(start.as_ptr()) },
            // SAFETY: as above, for `pam_start_confdir`.
            start_confdir: start_confdir
                .map(|symbol| unsafe { std::mem::transmute::<*mut c_void, StartConfdir>(symbol.as_ptr()) }),
            // SAFETY: as above, for `pam_set_item`.
            set_item: unsafe { std::mem::transmute::<*mut c_void, SetItem>(set_item.as_ptr()) },
            // SAFETY: as above, for `pam_authenticate`.
            authenticate: unsafe { std::mem::transmute::<*mut c_void, Step>(authenticate.as_ptr()) },
            // SAFETY: as above, for `pam_acct_mgmt`.
            acct_mgmt: unsafe { std::mem::transmute::<*mut c_void, Step>(acct_mgmt.as_ptr()) },
            // SAFETY: as above, for `pam_end`.
            end: unsafe { std::mem::transmute::<*mut c_void, Step>(end.as_ptr()) },
            // SAFETY: as above, for `pam_strerror`.
            strerror: unsafe { std::mem::transmute::<*mut c_void, StrError>(strerror.as_ptr()) },
        })
    }

    /// Whether services can be described in another directory than `/etc/pam.d`.
    pub(super) const fn has_confdir(&self) -> bool {
        self.start_confdir.is_some()
    }

    /// Authentication, then the account's state. May block for long, and may crash: only in a process of its own.
    pub(super) fn login(&self, service: &Service, login: Login) -> Verdict {
        let Login { user, rhost, answers } = login;
        let mut talk = Talk { answers, password_given: false, next: 1, said: String::new(), missing: None };
        let conv = Conv { converse, data: (&raw mut talk).cast() };
        let mut handle = ptr::null_mut();
        let (name, user) = (service.name.as_ptr(), user.as_ptr());
        let started = match (&service.confdir, self.start_confdir) {
            (None, _) => {
                // SAFETY: strings and `conv` live until `pam_end` below; the handle is written.
                unsafe { (self.start)(name, user, &raw const conv, &raw mut handle) }
            }
            (Some(confdir), Some(start)) => {
                // SAFETY: as above.
                unsafe { start(name, user, &raw const conv, confdir.as_ptr(), &raw mut handle) }
            }
            (Some(_), None) => return no_answer("this libpam.so.0 has no pam_start_confdir".to_owned()),
        };
        if started != PAM_SUCCESS || handle.is_null() {
            return no_answer(format!("pam_start failed with {started}"));
        }
        let mut code = PAM_SUCCESS;
        for (item, value) in [(PAM_RHOST, rhost.as_c_str()), (PAM_TTY, TTY)] {
            if code == PAM_SUCCESS {
                // SAFETY: the handle is open; PAM copies the string.
                code = unsafe { (self.set_item)(handle, item, value.as_ptr().cast()) };
            }
        }
        for step in [self.authenticate, self.acct_mgmt] {
            if code == PAM_SUCCESS {
                // SAFETY: the handle is open. `talk`, which `converse` is called with, is not touched here meanwhile.
                code = unsafe { step(handle, 0) };
            }
        }
        let why = self.text(handle, code);
        // SAFETY: the handle is open, and not used any more.
        unsafe { (self.end)(handle, code) };
        talk.verdict(code, &why)
    }

    fn text(&self, handle: *mut PamHandle, code: c_int) -> String {
        // SAFETY: the handle is open; what comes back is a constant string.
        let text = unsafe { (self.strerror)(handle, code) };
        c_text(text)
    }
}

/// The conversation with the modules of one login.
struct Talk {
    /// The password, then the others.
    answers: Vec<Secret<String>>,
    password_given: bool,
    /// Which answer the next prompt gets.
    next: usize,
    /// What modules told the user.
    said: String,
    /// The first prompt that nobody has an answer to, and whether the answer may be seen.
    missing: Option<(String, bool)>,
}

impl Talk {
    /// Which answer belongs to the prompt.
    fn answer(&mut self, echo: bool) -> usize {
        if !echo && !self.password_given {
            self.password_given = true;
            return 0;
        }
        self.next += 1;
        self.next - 1
    }

    fn say(&mut self, text: &str) {
        if self.said.len() + text.len() < MAX_TEXT {
            self.said.push_str(text);
            self.said.push(' ');
        }
    }

    fn verdict(self, code: c_int, why: &str) -> Verdict {
        let why = printable(&format!("{why} {}", self.said));
        match (code, self.missing) {
            (PAM_SUCCESS, _) => Verdict::Allow,
            (_, Some((prompt, echo))) => Verdict::NeedMore { prompt, echo },
            (code, None) if REFUSALS.contains(&code) => Verdict::Deny { why },
            (code, None) => no_answer(format!("{why} ({code})")),
        }
    }
}

/// The function that modules talk to. Unwinding out of it ends the process, which is the login's own.
extern "C" fn converse(
    count: c_int,
    messages: *mut *const Message,
    responses: *mut *mut Response,
    data: *mut c_void,
) -> c_int {
    let Some(len) = usize::try_from(count).ok().filter(|_| (1..=MAX_MESSAGES).contains(&count)) else {
        return PAM_CONV_ERR;
    };
    if messages.is_null() || responses.is_null() {
        return PAM_CONV_ERR;
    }
    // SAFETY: `login` passed a pointer to its `Talk`, which outlives the handle; nothing else refers to it during a step.
    let Some(talk) = (unsafe { data.cast::<Talk>().as_mut() }) else {
        return PAM_CONV_ERR;
    };
    // SAFETY: Linux-PAM passes an array of `count` pointers that lives during this call.
    let messages = unsafe { std::slice::from_raw_parts(messages, len) };
    let mut chosen: Vec<Option<usize>> = Vec::with_capacity(len);
    for message in messages {
        // SAFETY: each of them points to a message that lives during this call.
        let Some(message) = (unsafe { message.as_ref() }) else {
            return PAM_CONV_ERR;
        };
        let text = c_text(message.text);
        match message.style {
            PAM_PROMPT_ECHO_OFF | PAM_PROMPT_ECHO_ON => {
                let echo = message.style == PAM_PROMPT_ECHO_ON;
                let answer = talk.answer(echo);
                if answer >= talk.answers.len() {
                    // What was said before it belongs to the question, as the text of a challenge does.
                    let prompt = printable(&format!("{}{text}", talk.said));
                    talk.missing.get_or_insert((prompt, echo));
                    return PAM_CONV_ERR;
                }
                chosen.push(Some(answer));
            }
            PAM_ERROR_MSG | PAM_TEXT_INFO => {
                talk.say(&text);
                chosen.push(None);
            }
            _ => return PAM_CONV_ERR,
        }
    }
    // SAFETY: a plain allocation of zeros, which is `len` responses without a text.
    let array = unsafe { libc::calloc(len, size_of::<Response>()) }.cast::<Response>();
    if array.is_null() {
        return PAM_BUF_ERR;
    }
    // SAFETY: the array has `len` elements of zeros, and nobody else has it yet.
    let filled = unsafe { std::slice::from_raw_parts_mut(array, len) };
    for (response, answer) in filled.iter_mut().zip(chosen) {
        let Some(answer) = answer.and_then(|answer| talk.answers.get(answer)) else { continue };
        let text = c_copy(answer.expose());
        if text.is_null() {
            // Answers given so far are left to the end of this process, which comes next.
            return PAM_BUF_ERR;
        }
        response.text = text;
    }
    // SAFETY: the module gave us a place for the pointer, and takes the array over.
    unsafe { responses.write(array) };
    PAM_SUCCESS
}

/// A copy that C can free. Null when there is no memory.
fn c_copy(text: &str) -> *mut c_char {
    // SAFETY: a plain allocation; its zeros end the string.
    let copy = unsafe { libc::calloc(text.len() + 1, 1) }.cast::<u8>();
    if !copy.is_null() {
        // SAFETY: both are of at least this length, and the new one overlaps nothing.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr(), copy, text.len()) };
    }
    copy.cast()
}

fn c_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null; PAM and the linker hand out strings with a NUL at their end that live during the call.
    printable(&unsafe { CStr::from_ptr(text) }.to_string_lossy())
}

fn symbol(library: NonNull<c_void>, name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the library is open, and never closed.
    NonNull::new(unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) })
}

fn dl_error() -> String {
    // SAFETY: only this thread uses the linker; the string lives until the next call to it.
    c_text(unsafe { libc::dlerror() })
}

fn no_answer(why: String) -> Verdict {
    Verdict::NoAnswer { why }
}

/// Forks. Only for the helper, which has one thread: the child may do whatever its parent could.
pub(super) fn fork() -> io::Result<ForkResult> {
    // SAFETY: this process has one thread, so no lock is held by a thread that the child lacks.
    unsafe { nix::unistd::fork() }.map_err(Into::into)
}

/// The programs that modules run expect a broken pipe to end them; Rust had it ignored.
pub(super) fn default_sigpipe() {
    // SAFETY: the default action runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Makes the program start in a session of its own, with no descriptor of ours but the three standard ones.
pub(super) fn isolate(command: &mut Command) {
    let prepare = || {
        nix::unistd::setsid()?;
        // SAFETY: a plain system call on descriptor numbers; nothing is closed before exec.
        let done =
            unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: `prepare` makes async-signal-safe system calls only, and touches no memory of the parent.
    unsafe { command.pre_exec(prepare) };
}

/// Watches a descriptor for input.
pub(super) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open and refers to the same file for as long as it lives, and the `AsyncFd` owns it.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(Into::into)
}
