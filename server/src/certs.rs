//! `multiraft certs`: an authority of the cluster's own and a certificate for each store.
//!
//! Never overwrites a file: a key that is gone cannot be brought back. Keys are readable by their owner only.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use crate::error::Failure;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEARS_10: u32 = 3652;

/// Where the certificates of a cluster lie.
pub(crate) struct CertFiles {
    dir: PathBuf,
}

impl CertFiles {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The authority that every store trusts.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The authority's key, which only `certs` needs.
    pub(crate) fn ca_key(&self) -> PathBuf {
        self.dir.join("ca-key.pem")
    }

    /// A store's certificate.
    pub(crate) fn cert(&self, store: u64) -> PathBuf {
        self.dir.join(format!("store-{store}.pem"))
    }

    /// A store's key.
    pub(crate) fn key(&self, store: u64) -> PathBuf {
        self.dir.join(format!("store-{store}-key.pem"))
    }

    fn all(&self, stores: u64) -> Vec<PathBuf> {
        let of_stores = (1..=stores).flat_map(|store| [self.cert(store), self.key(store)]);
        [self.ca(), self.ca_key()].into_iter().chain(of_stores).collect()
    }

    /// Makes them all, for the stores from 1 to `stores`.
    pub(crate) fn create(&self, stores: u64) -> Result<(), Failure> {
        fs::create_dir_all(&self.dir).map_err(|error| Failure::file("create", &self.dir, error))?;
        if let Some(there) = self.all(stores).into_iter().find(|path| path.exists()) {
            return Err(Failure::new(format!(
                "{} exists already and is not overwritten: choose another --out, or move the old certificates away",
                there.display()
            )));
        }
        let generated = |error: rcgen::Error| Failure::new(format!("a certificate could not be made: {error}"));
        let ca_key = KeyPair::generate().map_err(generated)?;
        let ca_params = ca_params();
        let ca = ca_params.self_signed(&ca_key).map_err(generated)?;
        write_new(&self.ca_key(), &ca_key.serialize_pem(), 0o600)?;
        write_new(&self.ca(), &ca.pem(), 0o644)?;
        let issuer = Issuer::new(ca_params, ca_key);
        for store in 1..=stores {
            let key = KeyPair::generate().map_err(generated)?;
            let cert = store_params(store).map_err(generated)?.signed_by(&key, &issuer).map_err(generated)?;
            write_new(&self.key(store), &key.serialize_pem(), 0o600)?;
            write_new(&self.cert(store), &cert.pem(), 0o644)?;
        }
        Ok(())
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "multiraft cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params);
    params
}

/// The name in the certificate is the store's identity: a peer that presents another's is refused.
fn store_params(store: u64) -> Result<CertificateParams, rcgen::Error> {
    let name = format!("store-{store}.multiraft");
    let mut params = CertificateParams::new(vec![name.clone()])?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params);
    Ok(params)
}

/// From yesterday, so that clocks may differ a little, for ten years.
fn set_validity(params: &mut CertificateParams) {
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + DAY * YEARS_10).into();
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| Failure::file("write", path, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_private_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let files = CertFiles::new(dir.path().join("certs"));
        files.create(2).unwrap();
        for key in [files.ca_key(), files.key(1), files.key(2)] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let before = fs::read(files.ca()).unwrap();
        let refused = files.create(3).unwrap_err().to_string();
        assert!(refused.contains("ca.pem exists already"), "{refused}");
        assert_eq!(fs::read(files.ca()).unwrap(), before);
        assert!(!files.cert(3).exists());
    }
}
