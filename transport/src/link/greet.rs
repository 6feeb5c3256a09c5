//! The greeting on a new connection: both sides say who they are, check it, and agree whether this is the link.
//!
//! ```text
//! dialer                acceptor
//!   | ------ hello ------> |   first bidirectional stream
//!   | <----- hello ------- |
//!   |                      |
//!   | the arbiter (lower store id) sends the link's name,
//!   | or closes the connection with the reason why not
//! ```

use std::sync::Arc;

use multiraft_raft::{Incarnation, StoreId};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;

use super::{
    arbiter::{Candidate, Verdict, decide, follow},
    close::CloseCode,
    hello::{Hello, HelloError, LinkName},
};
use crate::{Tls, peer::Peer, shared::Shared, tls::agreed_version};

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    /// This side turned it away.
    #[error("{reason}")]
    Refused { code: CloseCode, reason: String },
    /// It broke, or the other side turned it away and said why.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The stream broke; the connection knows why.
    #[error("the greeting broke off: {0}")]
    Stream(String),
}

impl GreetError {
    /// What the other side says, if it says that this store was declared dead.
    pub(crate) fn fenced(&self) -> Option<String> {
        match self {
            Self::Connection(error) if CloseCode::Fenced.is_of(error) => Some(error.to_string()),
            _ => None,
        }
    }

    /// Whether there is nothing to tell: the two dialed each other at the same time, or one of them stops.
    pub(crate) fn is_ordinary(&self) -> bool {
        match self {
            Self::Refused { code, .. } => matches!(code, CloseCode::Duplicate | CloseCode::Shutdown),
            Self::Connection(error) => {
                [CloseCode::Duplicate, CloseCode::Shutdown, CloseCode::Replaced].iter().any(|code| code.is_of(error))
            }
            Self::Stream(_) => false,
        }
    }
}

/// Greets as the side that dialed `peer`. Closes the connection on failure, telling the other side why.
pub(crate) async fn greet_dialed(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    connection: &Connection,
) -> Result<(), GreetError> {
    let greeting = async {
        let (mut send, mut recv) = connection.open_bi().await?;
        let said = agreed_version(connection);
        write(&mut send, &own_hello(shared, peer, said).encode(), connection).await?;
        let theirs = read_hello(shared, &mut recv, connection).await?;
        if theirs.version != said {
            return Err(refused(HelloError::OtherVersion { found: theirs.version, said }));
        }
        if theirs.store != peer.id {
            let reason =
                format!("store {} answered where store {} was dialed: correct the address", theirs.store, peer.id);
            return Err(GreetError::Refused { code: CloseCode::WrongStore, reason });
        }
        admit(shared, &theirs).await?;
        settle(shared, peer, connection, &theirs, send, recv).await
    };
    conclude(connection, greeting.await)
}

/// Greets as the side that was dialed. Returns who dialed, as far as it is known.
pub(crate) async fn greet_accepted(shared: &Arc<Shared>, connection: &Connection) -> Result<StoreId, GreetError> {
    let greeting = async {
        let (mut send, mut recv) = connection.accept_bi().await?;
        let theirs = read_hello(shared, &mut recv, connection).await?;
        check_certificate(connection, theirs.store)?;
        if shared.config.fenced.contains(&theirs.store) {
            let reason = format!(
                "store {} was declared dead by a recovery: its regions go on without it, it must never serve again",
                theirs.store
            );
            return Err(GreetError::Refused { code: CloseCode::Fenced, reason });
        }
        let Some(peer) = shared.peer_or_new(theirs.store) else {
            let reason = format!("too many peers: {} are known already", shared.config.link.peers_max);
            return Err(GreetError::Refused { code: CloseCode::TooManyPeers, reason });
        };
        if peer.state().is_removed {
            let reason = format!("store {} was removed here", theirs.store);
            return Err(GreetError::Refused { code: CloseCode::Requested, reason });
        }
        admit(shared, &theirs).await?;
        write(&mut send, &own_hello(shared, &peer, theirs.version).encode(), connection).await?;
        settle(shared, &peer, connection, &theirs, send, recv).await?;
        Ok(theirs.store)
    };
    conclude(connection, greeting.await)
}

/// Tells the other side why, if it was this one that ended the greeting; finds out why, if it was the other.
fn conclude<T>(connection: &Connection, result: Result<T, GreetError>) -> Result<T, GreetError> {
    match result {
        Err(GreetError::Refused { code, reason }) => {
            code.close(connection, &reason);
            Err(GreetError::Refused { code, reason })
        }
        Err(GreetError::Stream(what)) => match connection.close_reason() {
            Some(error) => Err(GreetError::Connection(error)),
            None => {
                CloseCode::Malformed.close(connection, &what);
                Err(GreetError::Stream(what))
            }
        },
        other => other,
    }
}

fn own_hello(shared: &Shared, peer: &Peer, version: u16) -> Hello {
    let over = {
        let state = peer.state();
        if state.link.is_some() { LinkName::default() } else { state.last_name }
    };
    Hello {
        version,
        cluster: shared.config.cluster,
        store: shared.config.store,
        incarnation: shared.config.incarnation,
        append_lanes: u8::try_from(shared.config.append_lanes).expect("checked at the start"),
        over,
        frame_bytes_max: u32::try_from(shared.config.limits.frame_bytes_max).unwrap_or(u32::MAX),
        birth: shared.config.birth,
    }
}

/// Reads a hello and checks all of it that needs no certificate.
async fn read_hello(shared: &Shared, recv: &mut RecvStream, connection: &Connection) -> Result<Hello, GreetError> {
    let mut head = [0; Hello::HEAD_BYTES];
    // The version stands first, so that another version's hello, longer or shorter, is named for what it is.
    read(recv, &mut head, connection).await?;
    let version = Hello::version(head, shared.config.wire_version_max).map_err(refused)?;
    let mut rest = vec![0; Hello::rest_bytes(version)];
    read(recv, &mut rest, connection).await?;
    let hello = Hello::decode(version, &rest).map_err(refused)?;
    hello.check_limits(&shared.config.limits).map_err(refused)?;
    if hello.cluster != shared.config.cluster {
        let reason = format!(
            "store {} is of cluster {}, store {} of cluster {}: correct the address or the cluster id",
            hello.store, hello.cluster, shared.config.store, shared.config.cluster
        );
        return Err(GreetError::Refused { code: CloseCode::WrongCluster, reason });
    }
    if hello.store == shared.config.store {
        let reason = format!("both sides are store {}: give each store its own id", hello.store);
        return Err(GreetError::Refused { code: CloseCode::WrongStore, reason });
    }
    Ok(hello)
}

fn refused(error: HelloError) -> GreetError {
    let code = match error {
        HelloError::Magic | HelloError::Flags(_) | HelloError::OtherVersion { .. } => CloseCode::Malformed,
        _ => CloseCode::WrongVersion,
    };
    GreetError::Refused { code, reason: error.to_string() }
}

/// A store may speak for itself only: the certificate must carry its name.
fn check_certificate(connection: &Connection, store: StoreId) -> Result<(), GreetError> {
    let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let verified = match identity.as_deref().and_then(|chain| chain.first()) {
        Some(certificate) => Tls::verify_store(certificate, store),
        None => Err("there is no certificate".to_owned()),
    };
    verified.map_err(|detail| {
        let reason = format!("the certificate does not prove that this is store {store}: {detail}");
        GreetError::Refused { code: CloseCode::WrongStore, reason }
    })
}

/// Lets a store in only in the directory that it is known by, or if it says that it has lost that one. The other side knows by now which store
/// this is, and has checked it as well.
async fn admit(shared: &Arc<Shared>, theirs: &Hello) -> Result<(), GreetError> {
    let Some(births) = shared.config.births.clone() else { return Ok(()) };
    let (store, incarnation, birth) = (theirs.store, theirs.incarnation, theirs.birth);
    // What is new is written down before the link is used.
    let admitted = tokio::task::spawn_blocking(move || births.admit(store, incarnation, birth)).await;
    match admitted {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(GreetError::Refused { code: CloseCode::OtherBirth, reason }),
        Err(_) => {
            let reason = format!("whether store {store} may come could not be found out");
            Err(GreetError::Refused { code: CloseCode::Internal, reason })
        }
    }
}

/// Decides, or learns, whether this connection is the link.
async fn settle(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    connection: &Connection,
    theirs: &Hello,
    mut send: SendStream,
    mut recv: RecvStream,
) -> Result<(), GreetError> {
    if shared.is_arbiter(peer.id) {
        let verdict = {
            let state = peer.state();
            let candidate = Candidate { incarnation: theirs.incarnation, over: theirs.over };
            decide(state.link.as_ref().map(|link| link.held()), state.newest, candidate)
        };
        let name = shared.next_link_name();
        adopt(shared, peer, connection, theirs, name, verdict)?;
        write(&mut send, &name.number.to_le_bytes(), connection).await?;
    } else {
        let mut number = [0; 8];
        read(&mut recv, &mut number, connection).await?;
        let name = LinkName { incarnation: theirs.incarnation, number: u64::from_le_bytes(number) };
        let verdict = {
            let state = peer.state();
            follow(state.last_name, state.newest, name)
        };
        adopt(shared, peer, connection, theirs, name, verdict)?;
    }
    // An error means that the connection is over: whoever tends it finds out.
    let _ = send.finish();
    Ok(())
}

fn adopt(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    connection: &Connection,
    theirs: &Hello,
    name: LinkName,
    verdict: Verdict,
) -> Result<(), GreetError> {
    let (code, reason) = match verdict {
        Verdict::Adopt if shared.adopt(peer, connection.clone(), theirs, name) => return Ok(()),
        Verdict::Adopt => (CloseCode::Shutdown, "this store is shutting down".to_owned()),
        Verdict::Duplicate => (CloseCode::Duplicate, "there is a link already".to_owned()),
        Verdict::Stale { newest } => (CloseCode::StaleIncarnation, stale(peer.id, theirs.incarnation, newest)),
    };
    Err(GreetError::Refused { code, reason })
}

fn stale(store: StoreId, found: Incarnation, newest: Incarnation) -> String {
    format!(
        "store {store} comes with incarnation {found} after {newest} was seen: \
         two processes run as this store, or its data directory was rolled back"
    )
}

async fn write(send: &mut SendStream, bytes: &[u8], connection: &Connection) -> Result<(), GreetError> {
    send.write_all(bytes).await.map_err(|error| broken(connection, error.to_string()))
}

async fn read(recv: &mut RecvStream, bytes: &mut [u8], connection: &Connection) -> Result<(), GreetError> {
    recv.read_exact(bytes).await.map_err(|error| broken(connection, error.to_string()))
}

fn broken(connection: &Connection, what: String) -> GreetError {
    connection.close_reason().map_or(GreetError::Stream(what), GreetError::Connection)
}
