//! Certificate revocation lists: reading them, and noticing that the file has changed.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;

use super::error::PkiError;
use super::inspect;
use super::options::{CrlSource, Pem, read_capped};

/// Largest CRL file that is read: room for about a million entries.
const MAX_CRL_BYTES: u64 = 64 << 20;

/// How often the file is looked at, at most: a storm of handshakes costs one `stat` a second.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What [`super::ServerTls::reload_crl`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrlReload {
    /// Looked at less than a second ago, or there is no file to look at.
    NotDue,
    /// The file is as it was.
    Unchanged,
    /// The new CRLs are in use from the next session on. Warnings to log.
    Reloaded(Vec<String>),
    /// The file cannot be used; the last good CRLs stay in use. Reported once for each state of the file.
    KeptOld(PkiError),
}

/// CRLs in the verifier's form, newest first, with what warnings need.
#[derive(Debug, Default)]
pub(super) struct Crls {
    pub lists: Vec<CertRevocationList<'static>>,
    /// Raw issuer names.
    issuers: Vec<Vec<u8>>,
    /// Earliest `nextUpdate`, seconds since 1970.
    pub next_update: Option<u64>,
}

impl Crls {
    /// Reads what `source` holds at start.
    pub(super) fn load(
        source: &CrlSource,
        now: UnixTime,
        warnings: &mut Vec<String>,
    ) -> Result<Self, PkiError> {
        match source {
            CrlSource::None => Ok(Self::default()),
            CrlSource::Dir(path) => match std::fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => Ok(Self::default()),
                Ok(_) => Err(PkiError::Read {
                    label: path.display().to_string(),
                    reason: "not a directory".into(),
                }),
                Err(e) => Err(PkiError::Read { label: path.display().to_string(), reason: e.to_string() }),
            },
            CrlSource::Inline(pem) => Self::parse(pem, now, warnings),
            CrlSource::File(path) => Self::read(path, now, warnings),
        }
    }

    fn read(path: &Path, now: UnixTime, warnings: &mut Vec<String>) -> Result<Self, PkiError> {
        let pem = Pem { label: path.display().to_string(), bytes: read_capped(path, MAX_CRL_BYTES)? };
        Self::parse(&pem, now, warnings)
    }

    fn parse(pem: &Pem, now: UnixTime, warnings: &mut Vec<String>) -> Result<Self, PkiError> {
        let mut dated = Vec::new();
        let mut next_update: Option<u64> = None;
        for (index, section) in CertificateRevocationListDer::pem_slice_iter(&pem.bytes).enumerate() {
            let index = index + 1;
            let der =
                section.map_err(|e| PkiError::Pem { label: pem.label.clone(), reason: e.to_string() })?;
            let failed = |reason: String| PkiError::Crl { label: pem.label.clone(), index, reason };
            let (_, parsed) = CertificateRevocationList::from_der(&der)
                .map_err(|e| failed(format!("cannot be parsed: {e}")))?;
            if parsed.version().is_none() {
                let hint = "version 1, which is not supported: issue it again as version 2 (set `crl_extensions` in \
                            openssl.cnf, or use `easyrsa gen-crl` of easy-rsa 3)";
                return Err(failed(hint.into()));
            }
            if let Some(problem) = inspect::signature_problem(&parsed.signature_algorithm) {
                return Err(failed(problem.to_string()));
            }
            let list = OwnedCertRevocationList::from_der(&der).map_err(|e| failed(e.to_string()))?;
            if let Some(end) = parsed.next_update() {
                let end = u64::try_from(end.timestamp()).unwrap_or(0);
                next_update = Some(next_update.map_or(end, |earliest| earliest.min(end)));
                if end < now.as_secs() {
                    warnings.push(format!(
                        "{}: CRL number {index} is out of date since {end} (seconds since 1970)",
                        pem.label
                    ));
                }
            }
            let issuer = parsed.issuer().as_raw().to_vec();
            dated.push((parsed.last_update().timestamp(), issuer, CertRevocationList::from(list)));
        }
        if dated.is_empty() {
            return Err(PkiError::Missing { label: pem.label.clone(), what: "CRL" });
        }
        // The verifier takes the first CRL of an issuer, which must be the newest.
        dated.sort_by_key(|(this_update, _, _)| std::cmp::Reverse(*this_update));
        let (mut issuers, mut lists) = (Vec::new(), Vec::new());
        for (_, issuer, list) in dated {
            issuers.push(issuer);
            lists.push(list);
        }
        Ok(Self { lists, issuers, next_update })
    }

    /// Whether one of the CRLs is by the issuer of this raw name.
    pub(super) fn covers(&self, issuer: &[u8]) -> bool {
        self.issuers.iter().any(|known| known == issuer)
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    inode: u64,
    mtime: (i64, i64),
}

/// Watches one CRL file by looking at it when asked.
#[derive(Debug)]
pub(super) struct CrlWatcher {
    path: PathBuf,
    stamp: Option<Stamp>,
    looked_at: Option<Instant>,
}

impl CrlWatcher {
    /// A watcher for `source`, if it is a file. Made before the file is read, so that no change in between is missed.
    pub(super) fn new(source: &CrlSource) -> Option<Self> {
        let CrlSource::File(path) = source else {
            return None;
        };
        Some(Self { path: path.clone(), stamp: stamp(path).ok(), looked_at: None })
    }

    /// Reads the file again if it has changed since the last time. `Ok(None)`: unchanged; `Err(None)`: not due.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        wall: UnixTime,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Crls>, Option<PkiError>> {
        if self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < CHECK_INTERVAL) {
            return Err(None);
        }
        self.looked_at = Some(now);
        let seen = stamp(&self.path);
        let stamp = seen.as_ref().ok().copied();
        if stamp == self.stamp {
            return Ok(None);
        }
        self.stamp = stamp;
        if let Err(reason) = seen {
            return Err(Some(PkiError::Read { label: self.path.display().to_string(), reason }));
        }
        Crls::read(&self.path, wall, warnings).map(Some).map_err(Some)
    }
}

fn stamp(path: &Path) -> Result<Stamp, String> {
    let metadata = std::fs::metadata(path).map_err(|e| e.to_string())?;
    let mtime = (metadata.mtime(), metadata.mtime_nsec());
    Ok(Stamp { size: metadata.size(), inode: metadata.ino(), mtime })
}
