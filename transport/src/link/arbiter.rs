//! Which connection of a pair of stores is *the* link.
//!
//! Both stores dial, so there may be two connections at a time, and a store killed hard leaves one behind that looks
//! alive until it times out. One side decides, so that both always agree: the *arbiter*, the store with the lower id.
//! It names the link it chooses (its incarnation, a counter) and tells the other over that same connection; the other
//! follows, unless it has already followed to a later name.
//!
//! The arbiter keeps the link it has. It changes to a new connection if
//! - the old one is closed or timed out, or
//! - the peer comes with a higher incarnation: the old connection's process is gone, or
//! - the peer says that it has given up the link that the arbiter still holds (or a later one).
//!
//! A dial that crosses the arbiter's own choice on the wire meets none of these and is turned away as a duplicate.
//!
//! Pure: no connection is touched here.

use multiraft_raft::Incarnation;

use super::hello::LinkName;

/// The link that the arbiter holds at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) name: LinkName,
    /// The peer's, as of that link.
    pub(crate) incarnation: Incarnation,
    /// Whether the QUIC layer takes the connection to be open.
    pub(crate) is_open: bool,
}

/// A new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) incarnation: Incarnation,
    /// See [`super::hello::Hello::over`].
    pub(crate) over: LinkName,
}

/// What is to be done with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It becomes the link; what there was before goes.
    Adopt,
    /// The link there is stays.
    Duplicate,
    /// A later process of that store has been here before: this one must not go on.
    Stale {
        /// The later one's.
        newest: Incarnation,
    },
}

/// The arbiter's decision. `newest` is the highest incarnation of the peer ever met.
pub(crate) fn decide(held: Option<Held>, newest: Incarnation, candidate: Candidate) -> Verdict {
    if candidate.incarnation < newest {
        return Verdict::Stale { newest };
    }
    match held {
        Some(held)
            if held.is_open && held.incarnation >= candidate.incarnation && !is_over(held.name, candidate.over) =>
        {
            Verdict::Duplicate
        }
        _ => Verdict::Adopt,
    }
}

/// The other side's decision on a link that the arbiter has named. `followed` is the last name it followed.
pub(crate) fn follow(followed: LinkName, newest: Incarnation, named: LinkName) -> Verdict {
    if named.incarnation < newest {
        Verdict::Stale { newest }
    } else if named > followed {
        Verdict::Adopt
    } else {
        Verdict::Duplicate
    }
}

/// What the peer has given up counts only against this process's own names.
fn is_over(held: LinkName, over: LinkName) -> bool {
    over.incarnation == held.incarnation && over.number >= held.number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(incarnation: u64, number: u64) -> LinkName {
        LinkName { incarnation: Incarnation(incarnation), number }
    }

    fn held(incarnation: u64) -> Held {
        Held { name: name(9, 5), incarnation: Incarnation(incarnation), is_open: true }
    }

    fn candidate(incarnation: u64, over: LinkName) -> Candidate {
        Candidate { incarnation: Incarnation(incarnation), over }
    }

    #[test]
    fn the_first_connection_is_adopted() {
        assert_eq!(decide(None, Incarnation(0), candidate(1, name(0, 0))), Verdict::Adopt);
        assert_eq!(follow(name(0, 0), Incarnation(0), name(1, 1)), Verdict::Adopt);
    }

    #[test]
    fn a_crossing_dial_is_a_duplicate() {
        assert_eq!(decide(Some(held(3)), Incarnation(3), candidate(3, name(0, 0))), Verdict::Duplicate);
        // The peer gave up an earlier link, and has not yet heard of the one held.
        assert_eq!(decide(Some(held(3)), Incarnation(3), candidate(3, name(9, 4))), Verdict::Duplicate);
        // What it gave up was named by an earlier process of the arbiter.
        assert_eq!(decide(Some(held(3)), Incarnation(3), candidate(3, name(8, 70))), Verdict::Duplicate);
    }

    #[test]
    fn a_restarted_peer_replaces_its_lingering_link_at_once() {
        assert_eq!(decide(Some(held(3)), Incarnation(3), candidate(4, name(0, 0))), Verdict::Adopt);
    }

    #[test]
    fn a_peer_that_gave_up_the_link_gets_a_new_one() {
        assert_eq!(decide(Some(held(3)), Incarnation(3), candidate(3, name(9, 5))), Verdict::Adopt);
        let closed = Held { is_open: false, ..held(3) };
        assert_eq!(decide(Some(closed), Incarnation(3), candidate(3, name(0, 0))), Verdict::Adopt);
    }

    #[test]
    fn an_earlier_process_is_turned_away() {
        let stale = Verdict::Stale { newest: Incarnation(4) };
        assert_eq!(decide(None, Incarnation(4), candidate(3, name(0, 0))), stale);
        assert_eq!(follow(name(4, 2), Incarnation(4), name(3, 9)), stale);
    }

    #[test]
    fn names_are_followed_in_their_order_only() {
        assert_eq!(follow(name(4, 2), Incarnation(4), name(4, 3)), Verdict::Adopt);
        assert_eq!(follow(name(4, 2), Incarnation(4), name(4, 2)), Verdict::Duplicate);
        assert_eq!(follow(name(4, 2), Incarnation(4), name(5, 1)), Verdict::Adopt);
    }
}
