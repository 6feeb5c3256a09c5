//! The judge of support between stores: what is promised, confirmed and counted on (`docs/liveness.md`, L, claims 2 and 4).

use std::collections::{BTreeMap, BTreeSet};

use multiraft::liveness::{Held, SupportEpoch, SupportNews, confirms};
use multiraft_raft::{Incarnation, StoreId, Time};
use multiraft_transport::SupportMessage;

use super::{Verdict, Violation};

const ONCE: &str = "an epoch of support is given once";
const CONFIRMED: &str = "nothing confirms support after its withdrawal";
const LEASES: &str = "a lease is backed by support";

/// All stores' support, as they have told their own workers.
#[derive(Debug, Default)]
pub struct Supports {
    running: BTreeMap<StoreId, Life>,
    /// By asker, supporter and epoch: the incarnation that supported it.
    supporters: BTreeMap<(StoreId, StoreId, SupportEpoch), Incarnation>,
}

/// One life of a store.
#[derive(Debug)]
struct Life {
    incarnation: Incarnation,
    may_vote: bool,
    given: BTreeMap<StoreId, SupportEpoch>,
    withdrawn: BTreeSet<(StoreId, SupportEpoch)>,
    /// All that its threads may still have a copy of.
    held: Vec<(StoreId, Held)>,
}

impl Supports {
    /// A store has started.
    pub fn on_start(&mut self, store: StoreId, incarnation: Incarnation) {
        let life =
            Life { incarnation, may_vote: false, given: BTreeMap::new(), withdrawn: BTreeSet::new(), held: Vec::new() };
        self.running.insert(store, life);
    }

    /// A store's process is gone.
    pub fn on_end(&mut self, store: StoreId) {
        self.running.remove(&store);
    }

    /// A store tells its workers.
    ///
    /// # Errors
    /// It gives what it has given, or has withdrawn; or withdraws what it has not given.
    pub fn on_news(&mut self, store: StoreId, news: &SupportNews) -> Verdict {
        let Some(life) = self.running.get_mut(&store) else { return Ok(()) };
        match news {
            SupportNews::Given { peer, epoch } => {
                let before = life.given.insert(*peer, *epoch);
                let by = *self.supporters.entry((*peer, store, *epoch)).or_insert(life.incarnation);
                if before.is_some() || life.withdrawn.contains(&(*peer, *epoch)) || by != life.incarnation {
                    let detail = format!("{store} gives {peer} {epoch:?} after {before:?}, first given by {by:?}");
                    return Err(Violation::new(ONCE, detail));
                }
            }
            SupportNews::Withdrawn { peer, epoch } => {
                let before = life.given.remove(peer);
                if before != Some(*epoch) || !life.withdrawn.insert((*peer, *epoch)) {
                    let detail = format!("{store} withdraws {epoch:?} from {peer}, to whom it gave {before:?}");
                    return Err(Violation::new(ONCE, detail));
                }
            }
            SupportNews::Held { peer, support } => life.held.push((*peer, support.clone())),
            SupportNews::MayVote => life.may_vote = true,
            SupportNews::Lost { .. } | SupportNews::RoundAnswered { .. } => {}
        }
        Ok(())
    }

    /// A store says something of support.
    ///
    /// # Errors
    /// It confirms what it does not give.
    pub fn on_said(&self, store: StoreId, to: StoreId, message: &SupportMessage) -> Verdict {
        let Some(epoch) = confirms(message) else { return Ok(()) };
        let given = self.running.get(&store).and_then(|life| life.given.get(&to).copied());
        if given == Some(epoch) {
            return Ok(());
        }
        Err(Violation::new(CONFIRMED, format!("{store} tells {to} that it supports {epoch:?}, and gives {given:?}")))
    }

    /// A store's clock reads `now`: whatever it may take for a lease by that is supported where it says, or nobody votes there
    /// yet. Returns how many leases there were.
    ///
    /// # Errors
    /// One is not.
    pub fn on_clock(&mut self, store: StoreId, now: Time) -> Result<u64, Violation> {
        let Some(life) = self.running.get_mut(&store) else { return Ok(0) };
        // Only the newest of a peer is ever renewed.
        let newest: BTreeMap<StoreId, usize> =
            life.held.iter().enumerate().map(|(at, (peer, _))| (*peer, at)).collect();
        let mut at = 0;
        life.held.retain(|(peer, held)| {
            at += 1;
            held.until() > now || newest.get(peer) == Some(&(at - 1))
        });
        let Some(life) = self.running.get(&store) else { return Ok(0) };
        let mut leases = 0;
        for (peer, held) in life.held.iter().filter(|(_, held)| now < held.until()) {
            leases += 1;
            // A process that is gone votes for nobody.
            let Some(other) = self.running.get(peer) else { continue };
            let epoch = SupportEpoch { incarnation: life.incarnation, number: held.number };
            let is_backed = if other.incarnation == held.by {
                other.given.get(&store) == Some(&epoch)
            } else {
                other.incarnation > held.by && !other.may_vote
            };
            if !is_backed {
                let detail = format!(
                    "{store} counts on {held:?} of {peer} at {now:?}; that is in {:?}, gives {:?}, may vote: {}",
                    other.incarnation,
                    other.given.get(&store),
                    other.may_vote
                );
                return Err(Violation::new(LEASES, detail));
            }
        }
        Ok(leases)
    }
}

#[cfg(test)]
mod tests {
    use multiraft_transport::{SupportRoundAnswer, SupportVerdict};

    use super::*;

    const OWN: StoreId = StoreId(1);
    const PEER: StoreId = StoreId(2);
    const EPOCH: SupportEpoch = SupportEpoch { incarnation: Incarnation(7), number: 1 };

    fn rule(verdict: Result<u64, Violation>) -> &'static str {
        verdict.map_or_else(|violation| violation.rule, |_| "nothing")
    }

    /// The peer asks this store, and is told that it holds its support until moment 100.
    fn supported() -> Supports {
        let mut supports = Supports::default();
        supports.on_start(OWN, Incarnation(3));
        supports.on_start(PEER, Incarnation(7));
        supports.on_news(OWN, &SupportNews::Given { peer: PEER, epoch: EPOCH }).unwrap();
        let support = Held::new(1, Incarnation(3), Time(100));
        supports.on_news(PEER, &SupportNews::Held { peer: OWN, support }).unwrap();
        supports
    }

    fn withdrawn() -> SupportNews {
        SupportNews::Withdrawn { peer: PEER, epoch: EPOCH }
    }

    #[test]
    fn a_lease_without_support_is_refused() {
        let mut supports = supported();
        assert_eq!(supports.on_clock(PEER, Time(99)), Ok(1));
        supports.on_news(OWN, &withdrawn()).unwrap();
        assert_eq!(supports.on_clock(PEER, Time(100)), Ok(0));
        assert_eq!(rule(supports.on_clock(PEER, Time(99))), LEASES);
    }

    #[test]
    fn a_lease_of_a_store_that_has_restarted_and_may_vote_is_refused() {
        let mut supports = supported();
        supports.on_end(OWN);
        assert_eq!(supports.on_clock(PEER, Time(99)), Ok(1));
        supports.on_start(OWN, Incarnation(4));
        assert_eq!(supports.on_clock(PEER, Time(99)), Ok(1));
        supports.on_news(OWN, &SupportNews::MayVote).unwrap();
        assert_eq!(rule(supports.on_clock(PEER, Time(99))), LEASES);
    }

    #[test]
    fn a_confirmation_after_the_withdrawal_is_refused() {
        let mut supports = supported();
        let answer =
            SupportRoundAnswer { asker: Incarnation(7), round: 1, incarnation: Incarnation(3), number: Some(1) };
        let round = SupportMessage::RoundAnswer(answer);
        let answer = SupportMessage::Answer(multiraft_transport::SupportAnswer {
            asker: Incarnation(7),
            number: 1,
            answered: 1,
            incarnation: Incarnation(3),
            sequence: 1,
            verdict: SupportVerdict::Supported { duration_ms: 1 },
        });
        for message in [round, answer] {
            assert_eq!(supports.on_said(OWN, PEER, &message), Ok(()));
        }
        supports.on_news(OWN, &withdrawn()).unwrap();
        for message in [round, answer] {
            assert_eq!(rule(supports.on_said(OWN, PEER, &message).map(|()| 0)), CONFIRMED);
        }
    }

    #[test]
    fn an_epoch_that_is_given_twice_is_refused() {
        let given = SupportNews::Given { peer: PEER, epoch: EPOCH };
        let mut supports = supported();
        assert_eq!(rule(supports.on_news(OWN, &given).map(|()| 0)), ONCE);
        let mut supports = supported();
        supports.on_news(OWN, &withdrawn()).unwrap();
        assert_eq!(rule(supports.on_news(OWN, &given).map(|()| 0)), ONCE);
        let mut supports = supported();
        supports.on_start(OWN, Incarnation(4));
        assert_eq!(rule(supports.on_news(OWN, &given).map(|()| 0)), ONCE, "by another incarnation");
    }
}
