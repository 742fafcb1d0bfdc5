//! What a gateway and the hosts of its plugins say to each other: one message a packet, lengths checked by who reads.
//!
//! A message is a byte that says which, then fields: numbers little-endian, strings and lists with their length in front.
//! Strings that go to C end with a NUL, which counts, so that a plugin gets pointers into the message itself and nothing of
//! it has to be copied (and wiped) once more.

use std::ffi::CStr;

use zeroize::{Zeroize as _, Zeroizing};

/// Largest message. Environments are about 8 KiB; one with 300 variables and a certificate stays below 64 KiB. Twice this
/// must fit into the kernel's default socket buffer of 208 KiB, which it counts double.
pub(super) const MAX_MESSAGE: usize = 256 * 1024;

/// It does not fit into a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsendable {
    #[error("more than {MAX_MESSAGE} bytes of arguments and environment")]
    TooLarge,
    #[error("an argument holds a NUL")]
    Nul,
}

/// What came is no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message that makes no sense")]
pub(super) struct Malformed;

/// From the gateway to a supervisor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ToSupervisor<'a> {
    /// First of all: what to run.
    Setup(Setup<'a>),
    /// Ends this child; the number is of its `Started`.
    Kill { generation: u32 },
}

/// A plugin, and who its process becomes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setup<'a> {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    /// The first is the plugin's file.
    pub(super) argv: Vec<&'a CStr>,
    /// `NAME=value`.
    pub(super) env: Vec<&'a CStr>,
}

/// From a supervisor to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FromSupervisor {
    /// A child runs; its socket comes with this message.
    Started { generation: u32, pid: i32 },
    /// It has ended, by exit code or by signal, and the next starts after `again_ms`.
    Died { generation: u32, code: Option<i32>, signal: Option<i32>, again_ms: u32 },
    /// No child could be made.
    NoChild { errno: i32, again_ms: u32 },
}

/// From the gateway to a child. Each is answered by `Returned` with its number before the next is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ToChild<'a> {
    /// Call the plugin. `argv` is without the plugin's own name.
    Call { id: u64, kind: u8, client: u64, argv: Vec<&'a CStr>, env: Vec<&'a CStr> },
    /// Destroy a client's context.
    Forget { id: u64, client: u64 },
}

/// From a child to the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromChild<'a> {
    /// The plugin is open. `contexts`: it keeps something for each client.
    Opened { mask: u32, contexts: bool },
    /// It is not, and why.
    Refused { why: &'a [u8] },
    /// What a call returned: its code, and names with values.
    Returned { id: u64, code: i32, values: Vec<(&'a [u8], &'a [u8])> },
    /// A call returned more than can be said.
    TooMuch { id: u64 },
}

/// A message in the making. Wipes itself when it is begun anew and at its end; never grows, as that would leave copies behind.
#[derive(Debug)]
pub(super) struct Message {
    bytes: Zeroizing<Vec<u8>>,
    fault: Option<Unsendable>,
}

impl Message {
    pub(super) fn new() -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(MAX_MESSAGE)), fault: None }
    }

    /// Wipes what there is.
    pub(super) fn wipe(&mut self) {
        self.bytes.as_mut_slice().zeroize();
        self.bytes.clear();
        self.fault = None;
    }

    /// The bytes, if all went in.
    pub(super) fn finish(&self) -> Result<&[u8], Unsendable> {
        self.fault.map_or(Ok(&self.bytes), Err)
    }

    pub(super) fn setup<'s>(
        &mut self,
        uid: Option<u32>,
        gid: Option<u32>,
        argv: &[&[u8]],
        env: impl Iterator<Item = (&'s str, &'s str)> + Clone,
    ) {
        self.begin(1);
        for id in [uid, gid] {
            self.raw(&[u8::from(id.is_some())]);
            self.u32(id.unwrap_or(0));
        }
        self.strings(argv);
        self.env(env);
    }

    pub(super) fn kill(&mut self, generation: u32) {
        self.begin(2);
        self.u32(generation);
    }

    pub(super) fn supervisor_says(&mut self, message: FromSupervisor) {
        match message {
            FromSupervisor::Started { generation, pid } => {
                self.begin(1);
                self.u32(generation);
                self.i32(pid);
            }
            FromSupervisor::Died { generation, code, signal, again_ms } => {
                self.begin(2);
                self.u32(generation);
                for number in [code, signal] {
                    self.raw(&[u8::from(number.is_some())]);
                    self.i32(number.unwrap_or(0));
                }
                self.u32(again_ms);
            }
            FromSupervisor::NoChild { errno, again_ms } => {
                self.begin(3);
                self.i32(errno);
                self.u32(again_ms);
            }
        }
    }

    pub(super) fn call<'s>(
        &mut self,
        id: u64,
        kind: u8,
        client: u64,
        argv: &[&[u8]],
        env: impl Iterator<Item = (&'s str, &'s str)> + Clone,
    ) {
        self.begin(1);
        self.u64(id);
        self.raw(&[kind]);
        self.u64(client);
        self.strings(argv);
        self.env(env);
    }

    pub(super) fn forget(&mut self, id: u64, client: u64) {
        self.begin(2);
        self.u64(id);
        self.u64(client);
    }

    pub(super) fn opened(&mut self, mask: u32, contexts: bool) {
        self.begin(1);
        self.u32(mask);
        self.raw(&[u8::from(contexts)]);
    }

    pub(super) fn refused(&mut self, why: &str) {
        self.begin(2);
        self.sized(&[why.as_bytes()]);
    }

    pub(super) fn returned<'v>(
        &mut self,
        id: u64,
        code: i32,
        values: impl ExactSizeIterator<Item = (&'v [u8], &'v [u8])>,
    ) {
        self.begin(3);
        self.u64(id);
        self.i32(code);
        self.count(values.len());
        for (name, value) in values {
            self.sized(&[name]);
            self.sized(&[value]);
        }
    }

    pub(super) fn too_much(&mut self, id: u64) {
        self.begin(4);
        self.u64(id);
    }

    fn begin(&mut self, which: u8) {
        self.wipe();
        self.raw(&[which]);
    }

    fn raw(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > MAX_MESSAGE {
            self.fault.get_or_insert(Unsendable::TooLarge);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn u32(&mut self, number: u32) {
        self.raw(&number.to_le_bytes());
    }

    fn i32(&mut self, number: i32) {
        self.raw(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.raw(&number.to_le_bytes());
    }

    /// What does not fit into the number does not fit into the message either.
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn sized(&mut self, parts: &[&[u8]]) {
        self.count(parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| self.raw(part));
    }

    fn c_string(&mut self, parts: &[&[u8]]) {
        if parts.iter().any(|part| part.contains(&0)) {
            self.fault.get_or_insert(Unsendable::Nul);
        }
        self.count(parts.iter().map(|part| part.len()).sum::<usize>() + 1);
        parts.iter().for_each(|part| self.raw(part));
        self.raw(&[0]);
    }

    fn strings(&mut self, strings: &[&[u8]]) {
        self.count(strings.len());
        strings.iter().for_each(|string| self.c_string(&[string]));
    }

    fn env<'s>(&mut self, env: impl Iterator<Item = (&'s str, &'s str)> + Clone) {
        self.count(env.clone().count());
        for (name, value) in env {
            self.c_string(&[name.as_bytes(), b"=", value.as_bytes()]);
        }
    }
}

impl<'a> ToSupervisor<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let message = match fields.u8()? {
            1 => {
                let (uid, gid) = (fields.optional()?, fields.optional()?);
                let setup = Setup { uid, gid, argv: fields.strings()?, env: fields.strings()? };
                if setup.argv.is_empty() {
                    return Err(Malformed);
                }
                Self::Setup(setup)
            }
            2 => Self::Kill { generation: fields.u32()? },
            _ => return Err(Malformed),
        };
        fields.end(message)
    }
}

impl FromSupervisor {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let message = match fields.u8()? {
            1 => Self::Started { generation: fields.u32()?, pid: fields.i32()? },
            2 => Self::Died {
                generation: fields.u32()?,
                code: fields.optional()?.map(u32::cast_signed),
                signal: fields.optional()?.map(u32::cast_signed),
                again_ms: fields.u32()?,
            },
            3 => Self::NoChild { errno: fields.i32()?, again_ms: fields.u32()? },
            _ => return Err(Malformed),
        };
        fields.end(message)
    }
}

impl<'a> ToChild<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let message = match fields.u8()? {
            1 => Self::Call {
                id: fields.u64()?,
                kind: fields.u8()?,
                client: fields.u64()?,
                argv: fields.strings()?,
                env: fields.strings()?,
            },
            2 => Self::Forget { id: fields.u64()?, client: fields.u64()? },
            _ => return Err(Malformed),
        };
        fields.end(message)
    }
}

impl<'a> FromChild<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let message = match fields.u8()? {
            1 => Self::Opened { mask: fields.u32()?, contexts: fields.bool()? },
            2 => Self::Refused { why: fields.sized()? },
            3 => Self::Returned {
                id: fields.u64()?,
                code: fields.i32()?,
                values: fields.list(|fields| Ok((fields.sized()?, fields.sized()?)))?,
            },
            4 => Self::TooMuch { id: fields.u64()? },
            _ => return Err(Malformed),
        };
        fields.end(message)
    }
}

/// What is still to be read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn optional(&mut self) -> Result<Option<u32>, Malformed> {
        let there = self.bool()?;
        let number = self.u32()?;
        Ok(there.then_some(number))
    }

    fn size(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.u32()?).map_err(|_| Malformed)
    }

    fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let size = self.size()?;
        self.take(size)
    }

    /// An entry has its own length, so that a count beyond what is left is a lie.
    fn list<T>(
        &mut self,
        mut entry: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.size()?;
        if count > self.0.len() / size_of::<u32>() {
            return Err(Malformed);
        }
        (0..count).map(|_| entry(self)).collect()
    }

    fn strings(&mut self) -> Result<Vec<&'a CStr>, Malformed> {
        self.list(|fields| CStr::from_bytes_with_nul(fields.sized()?).map_err(|_| Malformed))
    }

    fn end<T>(self, message: T) -> Result<T, Malformed> {
        if self.0.is_empty() { Ok(message) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_arrive_as_they_were_sent() {
        let mut message = Message::new();
        let env = [("password", "it's $(id)"), ("username", "")];
        message.call(7, 5, u64::MAX, &[b"a b", b""], env.into_iter());
        let ToChild::Call { id, kind, client, argv, env } = ToChild::read(message.finish().unwrap()).unwrap()
        else {
            panic!()
        };
        assert_eq!((id, kind, client), (7, 5, u64::MAX));
        assert_eq!(argv, [c"a b", c""]);
        assert_eq!(env, [c"password=it's $(id)", c"username="]);
    }

    #[test]
    fn what_does_not_fit_is_said_and_forgotten() {
        let mut message = Message::new();
        let large = "x".repeat(MAX_MESSAGE);
        message.call(1, 0, 0, &[], [("a", large.as_str())].into_iter());
        assert_eq!(message.finish(), Err(Unsendable::TooLarge));
        message.call(1, 0, 0, &[b"a\0b"], std::iter::empty());
        assert_eq!(message.finish(), Err(Unsendable::Nul));
        message.forget(1, 2);
        assert_eq!(ToChild::read(message.finish().unwrap()), Ok(ToChild::Forget { id: 1, client: 2 }));
        message.wipe();
        assert!(message.finish().unwrap().is_empty());
    }

    #[test]
    fn the_others_arrive_too() {
        let mut message = Message::new();
        message.setup(None, Some(65534), &[b"/p.so", b"arg"], [("verb", "3")].into_iter());
        let setup = Setup { uid: None, gid: Some(65534), argv: vec![c"/p.so", c"arg"], env: vec![c"verb=3"] };
        assert_eq!(ToSupervisor::read(message.finish().unwrap()), Ok(ToSupervisor::Setup(setup)));
        message.kill(3);
        assert_eq!(ToSupervisor::read(message.finish().unwrap()), Ok(ToSupervisor::Kill { generation: 3 }));
        for said in [
            FromSupervisor::Started { generation: 1, pid: 77 },
            FromSupervisor::Died { generation: 2, code: None, signal: Some(11), again_ms: 500 },
            FromSupervisor::NoChild { errno: 12, again_ms: 1000 },
        ] {
            message.supervisor_says(said);
            assert_eq!(FromSupervisor::read(message.finish().unwrap()), Ok(said));
        }
        message.opened(0x7fff, true);
        let opened = FromChild::Opened { mask: 0x7fff, contexts: true };
        assert_eq!(FromChild::read(message.finish().unwrap()), Ok(opened));
        message.refused("no");
        assert_eq!(FromChild::read(message.finish().unwrap()), Ok(FromChild::Refused { why: b"no" }));
        message.returned(9, -1, [(&b"config"[..], &b"push \"x\"\n"[..])].into_iter());
        let values = vec![(&b"config"[..], &b"push \"x\"\n"[..])];
        let returned = FromChild::Returned { id: 9, code: -1, values };
        assert_eq!(FromChild::read(message.finish().unwrap()), Ok(returned));
        message.too_much(9);
        assert_eq!(FromChild::read(message.finish().unwrap()), Ok(FromChild::TooMuch { id: 9 }));
    }

    #[test]
    fn counts_and_lengths_that_lie_are_refused() {
        let mut message = Message::new();
        message.call(1, 5, 0, &[b"abc"], [("a", "b")].into_iter());
        let good = message.finish().unwrap().to_vec();
        for cut in 0..good.len() {
            assert_eq!(ToChild::read(&good[..cut]), Err(Malformed), "cut at {cut}");
        }
        let longer = [&good[..], &[0]].concat();
        assert_eq!(ToChild::read(&longer), Err(Malformed));
        let mut count = good.clone();
        count[18..22].fill(0xff);
        assert_eq!(ToChild::read(&count), Err(Malformed));
        let mut unterminated = good;
        unterminated[29] = b'x';
        assert_eq!(ToChild::read(&unterminated), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ToSupervisor::read(&bytes);
            let _ = FromSupervisor::read(&bytes);
            let _ = ToChild::read(&bytes);
            let _ = FromChild::read(&bytes);
        }

        #[test]
        fn any_call_arrives(
            argv in proptest::collection::vec("[^\0]{0,20}", 0..5),
            env in proptest::collection::vec(("[a-z_]{1,8}", "[^\0]{0,40}"), 0..20),
        ) {
            let mut message = Message::new();
            let args: Vec<&[u8]> = argv.iter().map(String::as_bytes).collect();
            message.call(3, 5, 4, &args, env.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let ToChild::Call { argv: got_argv, env: got_env, .. } =
                ToChild::read(message.finish().unwrap()).unwrap() else { panic!() };
            prop_assert_eq!(got_argv.iter().map(|s| s.to_bytes()).collect::<Vec<_>>(), args);
            let want: Vec<String> = env.iter().map(|(n, v)| format!("{n}={v}")).collect();
            prop_assert_eq!(got_env.iter().map(|s| s.to_str().unwrap()).collect::<Vec<_>>(), want);
        }
    }
}
