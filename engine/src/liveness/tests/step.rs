//! Stores fall into step (L2).

use std::collections::BTreeMap;

use super::*;

/// When each store sent a heartbeat to each other one, of three that begin at different times and whose messages take no time.
fn send_times(begins: [u64; 3], until: u64) -> BTreeMap<(StoreId, StoreId), Vec<u64>> {
    let stores = [1, 2, 3].map(StoreId);
    let mut cores: Vec<Liveness> = Vec::new();
    for (store, begin) in stores.into_iter().zip(begins) {
        let config =
            LivenessConfig { store, incarnation: OWN_LIFE, options: options(), promised_before: Duration::ZERO };
        let mut core = Liveness::new(config, at(begin));
        stores.into_iter().for_each(|peer| core.add_peer(at(begin), peer));
        cores.push(core);
    }
    let mut sent: BTreeMap<(StoreId, StoreId), Vec<u64>> = BTreeMap::new();
    for ms in 0..until {
        let mut turns: Vec<(usize, Vec<(StoreId, SupportMessage)>)> = (0..3).map(|own| (own, Vec::new())).collect();
        while let Some((own, messages)) = turns.pop() {
            if ms < begins[own] || (messages.is_empty() && cores[own].next_deadline() > at(ms)) {
                continue;
            }
            let mut out = LivenessOutput::default();
            messages.iter().for_each(|(from, message)| cores[own].handle(at(ms), *from, message, &mut out));
            cores[own].tick(at(ms), true, &mut out);
            for (to, message) in out.sends {
                if matches!(message, SupportMessage::Heartbeat(_)) {
                    sent.entry((stores[own], to)).or_default().push(ms);
                }
                turns.insert(0, (to.get() as usize - 1, vec![(stores[own], message)]));
            }
        }
    }
    sent
}

#[test]
fn l2_stores_that_begin_at_different_times_fall_into_step_and_speak_no_sooner_than_after_half_an_interval() {
    for begins in [[0, 30, 70], [0, 51, 99], [20, 0, 49]] {
        let sent = send_times(begins, 1_000);
        assert_eq!(sent.len(), 6);
        for times in sent.values() {
            let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(gaps.iter().all(|gap| (50..=100).contains(gap)), "{begins:?}: {times:?}");
        }
        let late = |times: &Vec<u64>| times.iter().copied().filter(|ms| *ms >= 500).collect::<Vec<_>>();
        let first = late(&sent[&(StoreId(1), StoreId(2))]);
        assert_eq!(first.len(), 5);
        assert!(sent.values().all(|times| late(times) == first), "{begins:?}: {sent:?}");
    }
}

#[test]
fn l2_what_is_owed_leaves_with_the_heartbeat_that_the_peers_own_has_brought_forward() {
    let mut core = begun();
    // The first one is answered at once, as it changes something; the next only renews.
    take(&mut core, 10, SupportMessage::Heartbeat(heartbeat((5, 1), 1, 1)));
    tick(&mut core, 10);
    take(&mut core, 60, SupportMessage::Heartbeat(heartbeat((5, 1), 2, 1)));
    let sends = tick(&mut core, 60).sends;
    assert!(
        matches!(sends[..], [(PEER, SupportMessage::Answer(_)), (PEER, SupportMessage::Heartbeat(_))]),
        "{sends:?}"
    );
    // Less than half an interval later nothing is brought forward.
    take(&mut core, 100, SupportMessage::Heartbeat(heartbeat((5, 1), 3, 2)));
    assert_eq!(tick(&mut core, 100).sends, []);
}
