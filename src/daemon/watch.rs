//! Files that are read again when they change, for who asks for that: the configuration's, and the certificates that it names.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::{CertificateAuthority, Config};
use crate::session::House;

/// How often it is looked whether somebody asks for it by now.
const UNASKED: Duration = Duration::from_secs(1);

/// What tells one content of a file from another, without reading it; links are followed, so that it changes where a link leads elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    file: (u64, u64),
}

/// What all files are like at one moment; one that is not there has no stamp.
type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// Files that are looked at.
#[derive(Debug)]
pub struct Watcher {
    house: Arc<House>,
    file: Option<PathBuf>,
    /// As they were when they were last read.
    read: Stamps,
    /// As they were at the last look.
    seen: Stamps,
}

impl Watcher {
    /// A look at the files as they have just been read: the configuration's, if it is one, and those that it names.
    pub fn new(house: Arc<House>, file: Option<PathBuf>) -> Self {
        let read = stamps(&files(&house.config.load(), file.as_ref()));
        Self { house, file, seen: read.clone(), read }
    }

    /// Waits until files have changed and have come to rest. Where nobody asks for it that is never.
    ///
    /// Cancel safe: what was seen is remembered.
    pub async fn changed(&mut self) {
        loop {
            let config = self.house.config.load_full();
            tokio::time::sleep(config.process.watch.unwrap_or(UNASKED)).await;
            let now = stamps(&files(&config, self.file.as_ref()));
            let rests = std::mem::replace(&mut self.seen, now.clone()) == now;
            if config.process.watch.is_none() {
                self.read = now;
            } else if rests && now != self.read {
                self.read = now;
                return;
            }
        }
    }
}

/// The files of a configuration.
fn files(config: &Config, own: Option<&PathBuf>) -> Vec<PathBuf> {
    let authority = |authority: &Option<CertificateAuthority>| match authority {
        Some(CertificateAuthority::File(file)) => Some(file.clone()),
        Some(CertificateAuthority::System) | None => None,
    };
    let mut files: Vec<PathBuf> = own.cloned().into_iter().collect();
    let mut identities = vec![config.client_tls.identity.as_ref()];
    files.extend(authority(&config.client_tls.ca));
    for upstream in config.upstreams.values() {
        identities.push(upstream.tls.identity.as_ref());
        files.extend(authority(&upstream.tls.ca));
    }
    files.extend(identities.into_iter().flatten().flat_map(|identity| [identity.cert.clone(), identity.key.clone()]));
    files
}

fn stamps(files: &[PathBuf]) -> Stamps {
    let stamp = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), file: (metadata.dev(), metadata.ino()) })
    };
    files.iter().map(|file| (file.clone(), stamp(file))).collect()
}
