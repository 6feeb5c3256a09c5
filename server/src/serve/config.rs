//! The settings of a store, once flags and file have been put together and found to make sense.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use multiraft::{Placement, Seat};

use super::placement::placement;
use crate::cli::{ReadsChoice, ServeArgs, Settings, StateChoice};
use crate::error::Failure;
use crate::machine::MAX_VALUE_BYTES;

/// How long a command may take, unless told otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How many Redis connections are held at once, unless told otherwise.
const MAX_CONNECTIONS: usize = 10_000;
/// What a command takes at least, to leave room for its frame.
const MIN_COMMAND_BYTES: usize = 1024;

/// What `serve` runs with.
#[derive(Debug)]
pub(crate) struct ServeConfig {
    pub(crate) store: u64,
    pub(crate) dir: PathBuf,
    pub(crate) listen: SocketAddr,
    /// Every other store, and where it is.
    pub(crate) peers: BTreeMap<u64, String>,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) resp: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) state: StateChoice,
    pub(crate) bootstrap: Option<BootstrapWish>,
    /// It has been there, and has lost everything.
    pub(crate) rejoins: bool,
    /// Leaders answer reads on the strength of clocks.
    pub(crate) leases: bool,
    pub(crate) cluster: u128,
    pub(crate) request_timeout: Duration,
    pub(crate) max_connections: usize,
    pub(crate) max_command_bytes: usize,
    pub(crate) workers: usize,
    pub(crate) placement: Option<(Placement, Seat)>,
}

/// How a new cluster's key space is to be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootstrapWish {
    pub(crate) regions: usize,
    pub(crate) keys: Option<PathBuf>,
}

impl ServeConfig {
    /// Puts flags and file together.
    pub(crate) fn from_args(args: ServeArgs) -> Result<Self, Failure> {
        let settings = match &args.config {
            Some(path) => merge(args.settings, read_file(path)?),
            None => args.settings,
        };
        let rejoins = args.rejoin;
        let config = Self::from_settings(settings)?;
        if rejoins && config.bootstrap.is_some() {
            return Err(Failure::new(
                "--rejoin and --bootstrap-regions contradict each other: the cluster is there already",
            ));
        }
        Ok(Self { rejoins, ..config })
    }

    fn from_settings(settings: Settings) -> Result<Self, Failure> {
        let store = needed(settings.store, "store")?;
        if store == 0 {
            return Err(Failure::new("--store 0 names no store: stores are counted from 1"));
        }
        let placement = placement(&settings)?;
        let ca = needed(settings.ca, "ca")?;
        let cluster = match &settings.cluster {
            Some(text) => parse_cluster(text)?,
            None => cluster_of(&read_pem(&ca)?),
        };
        let config = Self {
            store,
            dir: needed(settings.dir, "dir")?,
            listen: needed(settings.listen, "listen")?,
            peers: parse_peers(store, &settings.peers)?,
            cert: needed(settings.cert, "cert")?,
            key: needed(settings.key, "key")?,
            ca,
            resp: settings.resp,
            admin: settings.admin,
            metrics: settings.metrics,
            state: settings.state.unwrap_or(StateChoice::Sled),
            bootstrap: bootstrap_wish(settings.bootstrap_regions, settings.bootstrap_keys)?,
            rejoins: false,
            leases: settings.reads == Some(ReadsChoice::Lease),
            cluster,
            request_timeout: settings.request_timeout.unwrap_or(REQUEST_TIMEOUT),
            max_connections: settings.max_connections.unwrap_or(MAX_CONNECTIONS),
            max_command_bytes: settings.max_command_bytes.unwrap_or(MAX_VALUE_BYTES),
            workers: settings.workers.unwrap_or(0),
            placement,
        };
        config.check(settings.expose)?;
        Ok(config)
    }

    fn check(&self, expose: bool) -> Result<(), Failure> {
        for (name, address) in [("admin", self.admin), ("metrics", self.metrics)] {
            if let Some(address) = address
                && !address.ip().is_loopback()
                && !expose
            {
                return Err(Failure::new(format!(
                    "--{name} {address} is not a loopback address, and the endpoint lets everybody in: use 127.0.0.1, or \
                     say --expose if the network in front of it is closed"
                )));
            }
        }
        if !(MIN_COMMAND_BYTES..=MAX_VALUE_BYTES).contains(&self.max_command_bytes) {
            return Err(Failure::new(format!(
                "--max-command-bytes must lie between {MIN_COMMAND_BYTES} and {MAX_VALUE_BYTES}"
            )));
        }
        for path in [&self.ca, &self.cert, &self.key] {
            read_pem(path)?;
        }
        Ok(())
    }
}

/// Reads a file of a certificate or key, so that a missing one is told by its name.
fn read_pem(path: &Path) -> Result<String, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::during(
            &format!("cannot read {}", path.display()),
            format_args!("{error}: make certificates with `multiraft certs --out DIR --stores N`"),
        )
    })?;
    if text.contains("-----BEGIN ") {
        return Ok(text);
    }
    Err(Failure::new(format!(
        "{} is not a PEM file: make certificates with `multiraft certs --out DIR --stores N`",
        path.display()
    )))
}

fn read_file(path: &Path) -> Result<Settings, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::file("read", path, error))?;
    toml::from_str(&text).map_err(|error| Failure::during(&format!("{} is not understood", path.display()), error))
}

/// Flags go before the file.
fn merge(flags: Settings, file: Settings) -> Settings {
    Settings {
        store: flags.store.or(file.store),
        dir: flags.dir.or(file.dir),
        listen: flags.listen.or(file.listen),
        peers: if flags.peers.is_empty() { file.peers } else { flags.peers },
        ca: flags.ca.or(file.ca),
        cert: flags.cert.or(file.cert),
        key: flags.key.or(file.key),
        resp: flags.resp.or(file.resp),
        admin: flags.admin.or(file.admin),
        metrics: flags.metrics.or(file.metrics),
        expose: flags.expose || file.expose,
        state: flags.state.or(file.state),
        bootstrap_regions: flags.bootstrap_regions.or(file.bootstrap_regions),
        bootstrap_keys: flags.bootstrap_keys.or(file.bootstrap_keys),
        request_timeout: flags.request_timeout.or(file.request_timeout),
        reads: flags.reads.or(file.reads),
        cluster: flags.cluster.or(file.cluster),
        max_connections: flags.max_connections.or(file.max_connections),
        max_command_bytes: flags.max_command_bytes.or(file.max_command_bytes),
        workers: flags.workers.or(file.workers),
        placement: flags.placement || file.placement,
        replicas: flags.replicas.or(file.replicas),
        placement_interval: flags.placement_interval.or(file.placement_interval),
        repair_after: flags.repair_after.or(file.repair_after),
        balance_after: flags.balance_after.or(file.balance_after),
        split_bytes: flags.split_bytes.or(file.split_bytes),
        split_writes: flags.split_writes.or(file.split_writes),
        split_reads: flags.split_reads.or(file.split_reads),
        regions_max: flags.regions_max.or(file.regions_max),
        merge_bytes: flags.merge_bytes.or(file.merge_bytes),
        merge_load: flags.merge_load.or(file.merge_load),
        merge_after: flags.merge_after.or(file.merge_after),
        survey_rate: flags.survey_rate.or(file.survey_rate),
        labels: if flags.labels.is_empty() { file.labels } else { flags.labels },
        weight: flags.weight.or(file.weight),
    }
}

fn needed<T>(value: Option<T>, name: &str) -> Result<T, Failure> {
    value.ok_or_else(|| {
        Failure::new(format!("--{name} is missing: give it as a flag, or as `{name}` in the file of --config"))
    })
}

fn parse_peers(store: u64, peers: &[String]) -> Result<BTreeMap<u64, String>, Failure> {
    let mut found = BTreeMap::new();
    for text in peers {
        let parts = text.split_once('=').and_then(|(id, address)| Some((id.parse::<u64>().ok()?, address)));
        let Some((id, address)) = parts.filter(|(id, address)| *id != 0 && has_port(address)) else {
            return Err(Failure::new(format!("--peer {text} is not understood: write it as 2=10.0.0.2:7100")));
        };
        if id == store {
            continue;
        }
        if found.insert(id, address.to_owned()).is_some() {
            return Err(Failure::new(format!("--peer names store {id} twice: name each store once")));
        }
    }
    Ok(found)
}

fn has_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

fn bootstrap_wish(regions: Option<usize>, keys: Option<PathBuf>) -> Result<Option<BootstrapWish>, Failure> {
    match (regions, keys) {
        (Some(0), _) => Err(Failure::new("--bootstrap-regions must be at least 1")),
        (Some(regions), keys) => Ok(Some(BootstrapWish { regions, keys })),
        (None, Some(_)) => {
            Err(Failure::new("--bootstrap-keys says where to cut, but not how often: add --bootstrap-regions N"))
        }
        (None, None) => Ok(None),
    }
}

fn parse_cluster(text: &str) -> Result<u128, Failure> {
    match u128::from_str_radix(text, 16) {
        Ok(id) if id != 0 && text.len() == 32 => Ok(id),
        _ => {
            Err(Failure::new(format!("--cluster {text} is not understood: write 32 hexadecimal digits, not all zero")))
        }
    }
}

/// A cluster id that all stores find by themselves: a hash of the authority that they share (FNV-1a, 128 bits). It only
/// tells clusters apart; that nobody else gets in is the certificates' work.
fn cluster_of(ca_pem: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = |hash: u128, byte: u8| (hash ^ u128::from(byte)).wrapping_mul(PRIME);
    ca_pem.bytes().filter(|byte| !byte.is_ascii_whitespace()).fold(OFFSET, hash).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::CertFiles;

    fn settings(dir: &Path) -> Settings {
        let certs = CertFiles::new(dir.join("certs"));
        certs.create(1).unwrap();
        Settings {
            store: Some(1),
            dir: Some(dir.join("data")),
            listen: Some("127.0.0.1:7101".parse().unwrap()),
            ca: Some(certs.ca()),
            cert: Some(certs.cert(1)),
            key: Some(certs.key(1)),
            ..Settings::default()
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let good = settings(dir.path());
        ServeConfig::from_settings(good.clone()).unwrap();
        let with = |change: &dyn Fn(&mut Settings)| {
            let mut settings = good.clone();
            change(&mut settings);
            ServeConfig::from_settings(settings).unwrap_err().to_string()
        };
        let cases = [
            (with(&|s| s.store = None), "--store is missing"),
            (with(&|s| s.store = Some(0)), "counted from 1"),
            (with(&|s| s.cert = Some("nowhere.pem".into())), "multiraft certs"),
            (with(&|s| s.peers = vec!["2".to_owned()]), "write it as 2=10.0.0.2:7100"),
            (with(&|s| s.peers = vec!["2=h:1".to_owned(), "2=h:2".to_owned()]), "twice"),
            (with(&|s| s.admin = Some("0.0.0.0:1".parse().unwrap())), "--expose"),
            (with(&|s| s.metrics = Some("10.1.1.1:1".parse().unwrap())), "--expose"),
            (with(&|s| s.bootstrap_keys = Some("f".into())), "--bootstrap-regions"),
            (with(&|s| s.cluster = Some("12".to_owned())), "32 hexadecimal digits"),
            (with(&|s| s.max_command_bytes = Some(1 << 30)), "--max-command-bytes"),
            (with(&|s| s.split_bytes = Some(1 << 20)), "--split-bytes says nothing without --placement"),
            (with(&|s| (s.placement, s.merge_bytes) = (true, Some(1 << 30))), "--merge-bytes"),
            (with(&|s| (s.placement, s.labels) = (true, vec!["zone".to_owned()])), "--label zone=a"),
            (with(&|s| (s.placement, s.weight) = (true, Some(0))), "--weight"),
        ];
        for (text, expected) in cases {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn flags_go_before_the_file_and_unknown_settings_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("store.toml");
        let text = "store = 7\nresp = \"127.0.0.1:6379\"\nrequest-timeout = \"250ms\"\npeer = [\"2=h:1\", \"1=h:2\"]\n";
        fs::write(&file, text).unwrap();
        let args = ServeArgs { config: Some(file.clone()), rejoin: false, settings: settings(dir.path()) };
        let config = ServeConfig::from_args(args).unwrap();
        assert_eq!((config.store, config.request_timeout), (1, Duration::from_millis(250)));
        assert_eq!(config.peers, BTreeMap::from([(2, "h:1".to_owned())]), "the store itself is no peer");
        fs::write(&file, "stroe = 7\n").unwrap();
        let refused = read_file(&file).unwrap_err().to_string();
        assert!(refused.contains("stroe"), "{refused}");
    }
}
