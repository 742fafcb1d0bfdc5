//! Signatures of certificates and revocation lists that were found good before are not computed again.
//!
//! Only the arithmetic is remembered: that this signature under this key fits these bytes, which stays true for ever. What may
//! change (validity, revocation, the trusted CAs, every rule) is judged at each login. A client's proof that it has its key
//! never comes here.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use ring::digest;
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

/// Signatures that are remembered, about 100 bytes each: one for each client certificate in use and each CA. Beyond that the
/// longest unused is forgotten, which costs its next login the computation and nothing else.
const MOST: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Good signatures by the SHA-256 of everything that they depend on. A bad one is never in it.
#[derive(Debug, Clone)]
pub(super) struct GoodSignatures(Arc<Mutex<LruCache<[u8; 32], ()>>>);

impl GoodSignatures {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(LruCache::new(MOST))))
    }

    /// These algorithms, with this memory.
    pub(super) fn with(
        &self,
        algorithms: &[&'static dyn SignatureVerificationAlgorithm],
    ) -> Vec<Remembering> {
        algorithms.iter().map(|inner| Remembering { inner: *inner, good: self.clone() }).collect()
    }

    fn knows(&self, key: &[u8; 32]) -> bool {
        // A thread that panicked while it held the lock has left a cache that is whole or lacks an entry.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).is_some()
    }

    fn learn(&self, key: [u8; 32]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(key, ());
    }
}

/// An algorithm that looks into the memory first.
#[derive(Debug)]
pub(super) struct Remembering {
    inner: &'static dyn SignatureVerificationAlgorithm,
    good: GoodSignatures,
}

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let (of_key, of_signature) = (self.inner.public_key_alg_id(), self.inner.signature_alg_id());
        let key = joined_digest([of_key.as_ref(), of_signature.as_ref(), public_key, signature, message]);
        if self.good.knows(&key) {
            return Ok(());
        }
        self.inner.verify_signature(public_key, message, signature)?;
        self.good.learn(key);
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.inner.signature_alg_id()
    }
}

/// Each part has its length before it: no two lists of parts give the same bytes.
fn joined_digest(parts: [&[u8]; 5]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls_pki_types::alg_id;

    use super::*;

    /// Good is what ends in a 1; counts how often it is asked.
    #[derive(Debug)]
    struct Counting(AtomicUsize, AlgorithmIdentifier);

    impl SignatureVerificationAlgorithm for Counting {
        fn verify_signature(&self, _: &[u8], _: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
            self.0.fetch_add(1, Ordering::Relaxed);
            if signature.last() == Some(&1) { Ok(()) } else { Err(InvalidSignature) }
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            self.1
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            alg_id::ECDSA_SHA256
        }
    }

    fn counting(of_key: AlgorithmIdentifier) -> &'static Counting {
        Box::leak(Box::new(Counting(AtomicUsize::new(0), of_key)))
    }

    #[test]
    fn only_the_same_good_signature_is_spared() {
        let p256 = counting(alg_id::ECDSA_P256);
        let p384 = counting(alg_id::ECDSA_P384);
        let both = GoodSignatures::new().with(&[p256, p384]);
        let [first, second] = both.as_slice() else { panic!() };
        for _ in 0..3 {
            assert!(first.verify_signature(b"key", b"message", &[0, 1]).is_ok());
        }
        assert_eq!(p256.0.load(Ordering::Relaxed), 1);
        for (key, message, signature) in [
            (&b"kez"[..], &b"message"[..], &[0, 1][..]),
            (b"key", b"messagf", &[0, 1]),
            (b"key", b"message", &[2, 1]),
            (b"key\0", b"message", &[1]),
        ] {
            let before = p256.0.load(Ordering::Relaxed);
            assert!(first.verify_signature(key, message, signature).is_ok());
            assert_eq!(p256.0.load(Ordering::Relaxed), before + 1, "{key:?} {message:?} {signature:?}");
        }
        assert!(second.verify_signature(b"key", b"message", &[0, 1]).is_ok());
        assert_eq!(p384.0.load(Ordering::Relaxed), 1, "what one algorithm found good is nothing to another");
    }

    #[test]
    fn a_bad_one_is_bad_each_time() {
        let inner = counting(alg_id::ECDSA_P256);
        let good = GoodSignatures::new();
        let algorithms = good.with(&[inner]);
        for _ in 0..3 {
            assert!(algorithms[0].verify_signature(b"key", b"message", &[0]).is_err());
        }
        assert_eq!(inner.0.load(Ordering::Relaxed), 3);
        assert!(good.0.lock().unwrap().is_empty());
    }

    #[test]
    fn it_does_not_grow_beyond_its_bound() {
        let good = GoodSignatures::new();
        let algorithms = good.with(&[counting(alg_id::ECDSA_P256)]);
        for number in 0..MOST.get() as u64 + 10 {
            assert!(algorithms[0].verify_signature(b"key", &number.to_be_bytes(), &[1]).is_ok());
        }
        assert_eq!(good.0.lock().unwrap().len(), MOST.get());
    }
}
