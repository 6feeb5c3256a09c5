//! A cluster of one store, for tests that reach behind the public API.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use bytes::Bytes;
use multiraft_transport::Tls;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use crate::machine::StateMachine;
use crate::{Bootstrap, Engine, StateKind, StoreId};

/// Starts it, with the key space cut at `boundaries` and state in memory. It knows of another store, that never answers.
pub(crate) async fn start(dir: &Path, boundaries: Vec<Bytes>, machine: impl StateMachine) -> Engine {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["store-1.multiraft".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap().pem();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Engine::builder()
        .store(StoreId(1))
        .data_dir(dir)
        .listen("127.0.0.1:0".parse::<SocketAddr>().unwrap())
        .peer(StoreId(2), silent)
        .tls(Tls::from_pem(ca.as_bytes(), certificate.as_bytes(), key.serialize_pem().as_bytes()).unwrap())
        .state(StateKind::Memory)
        .bootstrap(Bootstrap { boundaries, stores: vec![StoreId(1)] })
        .state_machine(machine)
        .start()
        .await
        .unwrap()
}
