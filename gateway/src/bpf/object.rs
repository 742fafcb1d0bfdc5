//! Loading an embedded object: its maps, then its one program.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{Map, MapError};
use aya::programs::{Program, ProgramError, ProgramFd, ProgramInfo};
use aya::{Ebpf, EbpfLoader};

use super::error::{self, BpfError, failed};

/// A program in the kernel, held by a descriptor of ours beside whatever it is attached to.
pub struct Loaded {
    fd: ProgramFd,
    info: ProgramInfo,
}

impl Loaded {
    /// The kernel's id of the program.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.info.id()
    }

    /// How many instructions the verifier went through; `None` where the kernel does not say.
    #[must_use]
    pub fn verified_instructions(&self) -> Option<u32> {
        self.info.verified_instruction_count()
    }
}

impl AsFd for Loaded {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// An object with its maps made, and its program not loaded yet.
pub(super) struct Object {
    about: error::Program,
    ebpf: Ebpf,
}

impl Object {
    /// Makes the maps of the object `bytes`, whose program `about` is, as `settings` wants them.
    pub(super) fn open<'a>(
        about: error::Program,
        bytes: &[u8],
        settings: impl FnOnce(&mut EbpfLoader<'a>),
    ) -> Result<Self, BpfError> {
        let mut loader = EbpfLoader::new();
        // The programs use no types of the kernel; to read those takes longer than all the rest.
        loader.btf(None);
        settings(&mut loader);
        let ebpf = loader.load(bytes).map_err(|e| failed(about, "create its maps", &e))?;
        Ok(Self { about, ebpf })
    }

    /// Takes a map out.
    pub(super) fn map<M: TryFrom<Map, Error = MapError>>(&mut self, map: &str) -> Result<M, BpfError> {
        let step = || format!("open its map {map}");
        let found = self
            .ebpf
            .take_map(map)
            .ok_or_else(|| failed(self.about, step(), &MapError::InvalidName { name: map.to_owned() }))?;
        M::try_from(found).map_err(|e| failed(self.about, step(), &e))
    }

    /// Hands the program to the verifier.
    pub(super) fn load<P>(&mut self, load: fn(&mut P) -> Result<(), ProgramError>) -> Result<&mut P, BpfError>
    where
        for<'a> &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
    {
        let about = self.about;
        let program = self.ebpf.program_mut(about.name).ok_or_else(|| {
            failed(about, "load", &ProgramError::InvalidName { name: about.name.to_owned() })
        })?;
        let program: &mut P = program.try_into().map_err(|e| failed(about, "load", &e))?;
        load(program).map_err(|e| failed(about, "load", &e))?;
        Ok(program)
    }

    /// A descriptor of the loaded program.
    pub(super) fn loaded(&self) -> Result<Loaded, BpfError> {
        let fail = |e: ProgramError| failed(self.about, "open the loaded program", &e);
        let program = self.ebpf.program(self.about.name).ok_or(ProgramError::NotLoaded).map_err(fail)?;
        let fd = program.fd().map_err(fail)?;
        let fd = fd.try_clone().map_err(|e| fail(e.into()))?;
        Ok(Loaded { fd, info: program.info().map_err(fail)? })
    }
}
