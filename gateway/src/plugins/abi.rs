//! The plugin interface as C sees it: loading, opening, calling. Runs in a child, in one thread.
//!
//! What the gateway cannot give is left out: there are no certificates as objects of OpenSSL (`current_cert` is null, and the
//! API of the TLS library is "none"), and `openvpn_plugin_abort_v1` is never called, as a host does not end by a fatal error
//! of its own.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;
use std::ptr;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use zeroize::Zeroizing;

use super::callbacks::{CALLBACKS, Callbacks, secure_memzero};
use super::kind::{TYPES, supported};

/// Version of the plugin interface.
const INTERFACE: c_int = 3;
/// Version of the structures of `open_v3` and `func_v3`.
const STRUCTURES: c_int = 5;
/// The release of OpenVPN whose plugin interface this is: plugins ask for it to learn what they may expect.
const RELEASE: (&CStr, c_uint, c_uint, &CStr) = (c"2.6.14", 2, 6, c".14");
/// No TLS library whose objects could be handed over.
const SSL_NONE: c_int = 0;
/// What functions return for success.
const SUCCESS: c_int = 0;
/// To be opened only after user and group were changed; anything lower is before.
const AFTER_UID_CHANGE: c_int = 4;
/// Most values that one call returns. Plugins return one, of name `config`.
const MAX_VALUES: usize = 256;

type Handle = *mut c_void;
type Strings = *const *const c_char;

/// A value that a plugin returns; all three are its `malloc`s.
#[repr(C)]
struct StringList {
    next: *mut StringList,
    name: *mut c_char,
    value: *mut c_char,
}

#[repr(C)]
struct OpenIn {
    type_mask: c_int,
    argv: Strings,
    envp: Strings,
    callbacks: *const Callbacks,
    ssl_api: c_int,
    version: *const c_char,
    version_major: c_uint,
    version_minor: c_uint,
    version_patch: *const c_char,
}

#[repr(C)]
struct OpenReturn {
    type_mask: c_int,
    handle: Handle,
    return_list: *mut *mut StringList,
}

#[repr(C)]
struct FuncIn {
    kind: c_int,
    argv: Strings,
    envp: Strings,
    handle: Handle,
    per_client_context: *mut c_void,
    current_cert_depth: c_int,
    current_cert: *mut c_void,
}

#[repr(C)]
struct FuncReturn {
    return_list: *mut *mut StringList,
}

type OpenV1 = unsafe extern "C" fn(*mut c_uint, Strings, Strings) -> Handle;
type OpenV2 = unsafe extern "C" fn(*mut c_uint, Strings, Strings, *mut *mut StringList) -> Handle;
type OpenV3 = unsafe extern "C" fn(c_int, *const OpenIn, *mut OpenReturn) -> c_int;
type FuncV1 = unsafe extern "C" fn(Handle, c_int, Strings, Strings) -> c_int;
type FuncV2 =
    unsafe extern "C" fn(Handle, c_int, Strings, Strings, *mut c_void, *mut *mut StringList) -> c_int;
type FuncV3 = unsafe extern "C" fn(c_int, *const FuncIn, *mut FuncReturn) -> c_int;
type NoArguments = unsafe extern "C" fn() -> c_int;
type Close = unsafe extern "C" fn(Handle);
type Constructor = unsafe extern "C" fn(Handle) -> *mut c_void;
type Destructor = unsafe extern "C" fn(Handle, *mut c_void);

enum Open {
    V1(Symbol<OpenV1>),
    V2(Symbol<OpenV2>),
    V3(Symbol<OpenV3>),
}

enum Func {
    V1(Symbol<FuncV1>),
    V2(Symbol<FuncV2>),
    V3(Symbol<FuncV3>),
}

/// A plugin's code, not yet asked to do anything.
pub(super) struct Loaded {
    open: Open,
    func: Func,
    close: Symbol<Close>,
    constructor: Option<Symbol<Constructor>>,
    destructor: Option<Symbol<Destructor>>,
    init_point: Option<Symbol<NoArguments>>,
    library: Library,
}

/// A plugin that is open. It is never unloaded: its process ends with it.
pub(super) struct Plugin {
    func: Func,
    close: Symbol<Close>,
    constructor: Option<Symbol<Constructor>>,
    destructor: Option<Symbol<Destructor>>,
    handle: Handle,
    /// The types of calls that it wants.
    pub(super) mask: u32,
    _library: Library,
}

/// What a plugin keeps for one client. Only its own plugin knows what it points to; null where it keeps nothing.
#[derive(Clone, Copy)]
pub(super) struct Context(*mut c_void);

/// A name and a value.
pub(super) type Value = (Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>);

/// What a call returned.
pub(super) struct Returned {
    pub(super) code: c_int,
    pub(super) values: Vec<Value>,
    /// There were more values than can be taken.
    pub(super) too_many: bool,
}

/// Strings as C wants them: an array of pointers with a null at its end. Borrows the strings.
pub(super) struct Pointers<'s> {
    pointers: Vec<*const c_char>,
    _strings: std::marker::PhantomData<&'s CStr>,
}

impl<'s> Pointers<'s> {
    pub(super) fn new(strings: impl IntoIterator<Item = &'s CStr>) -> Self {
        let pointers = strings.into_iter().map(CStr::as_ptr).chain([ptr::null()]).collect();
        Self { pointers, _strings: std::marker::PhantomData }
    }

    fn get(&self) -> Strings {
        self.pointers.as_ptr()
    }
}

impl Loaded {
    /// Loads a plugin and checks what it needs.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        // SAFETY: loading runs the library's initialisers. They are code that the operator wants to run here, in a process
        // that holds nothing of the gateway.
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| format!("it cannot be loaded: {}", cause(&error)))?;
        let minimum: Option<Symbol<NoArguments>> = find(&library, "min_version_required_v1");
        if let Some(minimum) = minimum {
            // SAFETY: the interface gives this function no arguments and no conditions.
            let minimum = unsafe { minimum() };
            if minimum > INTERFACE {
                return Err(format!(
                    "it needs version {minimum} of the plugin interface, this is {INTERFACE}"
                ));
            }
        }
        let none = |what: &str| format!("it is no OpenVPN plugin: openvpn_plugin_{what} is missing");
        let open = find(&library, "open_v3")
            .map(Open::V3)
            .or_else(|| find(&library, "open_v2").map(Open::V2))
            .or_else(|| find(&library, "open_v1").map(Open::V1))
            .ok_or_else(|| none("open_v1 (or v2, v3)"))?;
        let func = find(&library, "func_v3")
            .map(Func::V3)
            .or_else(|| find(&library, "func_v2").map(Func::V2))
            .or_else(|| find(&library, "func_v1").map(Func::V1))
            .ok_or_else(|| none("func_v1 (or v2, v3)"))?;
        let close = find(&library, "close_v1").ok_or_else(|| none("close_v1"))?;
        Ok(Self {
            open,
            func,
            close,
            constructor: find(&library, "client_constructor_v1"),
            destructor: find(&library, "client_destructor_v1"),
            init_point: find(&library, "select_initialization_point_v1"),
            library,
        })
    }

    /// Whether the plugin wants to be opened as the user that it will run as.
    pub(super) fn opens_after_uid_change(&self) -> bool {
        // SAFETY: the interface gives this function no arguments and no conditions.
        self.init_point.as_ref().is_some_and(|select| unsafe { select() } == AFTER_UID_CHANGE)
    }

    /// Opens it. `argv` begins with the plugin's file. Both arrays must stay for the life of the process, as some plugins
    /// keep pointers into them.
    ///
    /// # Errors
    /// What went wrong, in one line.
    pub(super) fn open(
        self,
        argv: &'static Pointers<'static>,
        env: &'static Pointers<'static>,
    ) -> Result<Plugin, String> {
        let mut list: *mut StringList = ptr::null_mut();
        let mut mask: c_uint = supported();
        let handle = match &self.open {
            Open::V1(open) => {
                // SAFETY: arguments as the interface has them: a mask to write to, and two null-terminated arrays.
                unsafe { open(&raw mut mask, argv.get(), env.get()) }
            }
            Open::V2(open) => {
                // SAFETY: as for v1, and a list that starts empty.
                unsafe { open(&raw mut mask, argv.get(), env.get(), &raw mut list) }
            }
            Open::V3(open) => {
                let (version, version_major, version_minor, patch) = RELEASE;
                let arguments = OpenIn {
                    type_mask: supported().cast_signed(),
                    argv: argv.get(),
                    envp: env.get(),
                    callbacks: &raw const CALLBACKS,
                    ssl_api: SSL_NONE,
                    version: version.as_ptr(),
                    version_major,
                    version_minor,
                    version_patch: patch.as_ptr(),
                };
                let mut returned =
                    OpenReturn { type_mask: 0, handle: ptr::null_mut(), return_list: &raw mut list };
                // SAFETY: the structures are those of version 5, and live for the call.
                let code = unsafe { open(STRUCTURES, &raw const arguments, &raw mut returned) };
                if code != SUCCESS {
                    return Err(format!("it refuses to open (openvpn_plugin_open_v3 returned {code})"));
                }
                mask = returned.type_mask.cast_unsigned();
                returned.handle
            }
        };
        let (values, _) = take_list(list);
        if handle.is_null() {
            return Err("it refuses to open (openvpn_plugin_open returned no handle)".to_owned());
        }
        if mask >> TYPES != 0 {
            return Err(format!("it wants calls that are not known here (type mask {mask:#x})"));
        }
        if !values.is_empty() {
            return Err("it returns configuration when it is opened, which is not supported".to_owned());
        }
        let Self { func, close, constructor, destructor, library, .. } = self;
        Ok(Plugin { func, close, constructor, destructor, handle, mask, _library: library })
    }
}

impl Plugin {
    /// Whether it keeps something for each client.
    pub(super) fn has_contexts(&self) -> bool {
        self.constructor.is_some()
    }

    /// A new client.
    pub(super) fn construct(&self) -> Context {
        let Some(constructor) = &self.constructor else { return Context(ptr::null_mut()) };
        // SAFETY: the handle is this plugin's own, and open.
        Context(unsafe { constructor(self.handle) })
    }

    /// A client is gone.
    pub(super) fn destroy(&self, context: Context) {
        if let Some(destructor) = &self.destructor {
            // SAFETY: the handle is open; the context is of this plugin's constructor, and used for the last time, as the
            // caller takes it out of its table.
            unsafe { destructor(self.handle, context.0) }
        }
    }

    /// Calls it. `argv` begins with the plugin's file.
    pub(super) fn call(
        &self,
        kind: u8,
        argv: &Pointers<'_>,
        env: &Pointers<'_>,
        context: Context,
        cert_depth: Option<c_int>,
    ) -> Returned {
        let kind = c_int::from(kind);
        let mut list: *mut StringList = ptr::null_mut();
        let code = match &self.func {
            Func::V1(func) => {
                // SAFETY: the handle is open; both arrays are null-terminated and live for the call.
                unsafe { func(self.handle, kind, argv.get(), env.get()) }
            }
            Func::V2(func) => {
                // SAFETY: as for v1; the context is of this plugin, the list starts empty.
                unsafe { func(self.handle, kind, argv.get(), env.get(), context.0, &raw mut list) }
            }
            Func::V3(func) => {
                let arguments = FuncIn {
                    kind,
                    argv: argv.get(),
                    envp: env.get(),
                    handle: self.handle,
                    per_client_context: context.0,
                    current_cert_depth: cert_depth.unwrap_or(-1),
                    current_cert: ptr::null_mut(),
                };
                let mut returned = FuncReturn { return_list: &raw mut list };
                // SAFETY: the structures are those of version 5, and live for the call.
                unsafe { func(STRUCTURES, &raw const arguments, &raw mut returned) }
            }
        };
        let (values, too_many) = take_list(list);
        Returned { code, values, too_many }
    }

    /// Closes it, and ends the process.
    pub(super) fn close(self) -> ! {
        // SAFETY: the handle is open, and `self` is gone afterwards.
        unsafe { (self.close)(self.handle) }
        // Unloading could still crash, and the process ends now anyway.
        std::process::exit(0);
    }
}

fn find<T>(library: &Library, name: &str) -> Option<Symbol<T>> {
    let name = format!("openvpn_plugin_{name}");
    // SAFETY: every caller's `T` is the function type that the interface has for this name.
    unsafe { library.get(name.as_bytes()) }.ok()
}

/// The loader's own words; the error around them says only which function failed.
fn cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).unwrap_or(error).to_string()
}

/// Takes what a plugin has put into a list, and gives its memory back, wiped. Whether there was more than can be taken.
fn take_list(mut list: *mut StringList) -> (Vec<Value>, bool) {
    let mut values = Vec::new();
    while !list.is_null() {
        if values.len() == MAX_VALUES {
            // The rest is lost memory of a child whose plugin is broken.
            return (values, true);
        }
        // SAFETY: not null, so by the interface an entry that the plugin has allocated and filled, and handed over to us.
        let StringList { next, name, value } = unsafe { list.read() };
        values.push((take_string(name), take_string(value)));
        // SAFETY: allocated with malloc by the plugin, as the interface demands, and not used any more.
        unsafe { libc::free(list.cast()) };
        list = next;
    }
    (values, false)
}

fn take_string(string: *mut c_char) -> Zeroizing<Vec<u8>> {
    if string.is_null() {
        return Zeroizing::default();
    }
    // SAFETY: not null, so by the interface a string with a NUL at its end.
    let bytes = unsafe { CStr::from_ptr(string) }.to_bytes();
    let taken = Zeroizing::new(bytes.to_vec());
    // SAFETY: these are the string's own bytes, which nobody looks at any more.
    unsafe { secure_memzero(string.cast(), taken.len()) };
    // SAFETY: allocated with malloc by the plugin, as the interface demands, and not used any more.
    unsafe { libc::free(string.cast()) };
    taken
}
