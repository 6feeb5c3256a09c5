//! Files of a recovery whose checksum is right and whose inside is not.

use multiraft_raft::{
    ClusterId, HardState, Incarnation, KeyRange, LogIndex, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId,
    Role, StoreId, Term,
};

use super::codec::{Kind, seal};
use super::survey::{BuriedReplica, DamagedReplica, Foreseen, FrozenFor, ReplicaSurvey};
use super::{Plan, PlanOptions, StoreSurvey, make_plan};

fn region(id: u64, start: &'static str, end: &'static str) -> RegionDescriptor {
    let range = KeyRange { start: start.as_bytes().into(), end: end.as_bytes().into() };
    let replica = |store| Replica { id: ReplicaId(id * 10 + store), store: StoreId(store), role: Role::Voter };
    let epoch = RegionEpoch { conf_version: 3, version: 4 };
    RegionDescriptor { id: RegionId(id), range, epoch, replicas: vec![replica(1), replica(7), replica(8)] }
}

fn replica(descriptor: &RegionDescriptor) -> ReplicaSurvey {
    let frozen = Some(FrozenFor { index: LogIndex(9), target: RegionId(3), version: 4 });
    ReplicaSurvey {
        descriptor: descriptor.clone(),
        hard_state: HardState { term: Term(3), vote: ReplicaId(27), commit: LogIndex(8) },
        applied: (LogIndex(7), Term(2)),
        committed: (LogIndex(8), Term(3)),
        last: (LogIndex(12), Term(3)),
        frozen,
        absorbed: vec![(RegionId(9), 2)],
        foreseen: Foreseen {
            descriptor: descriptor.clone(),
            frozen,
            absorbed: vec![(RegionId(9), 2), (RegionId(5), 3)],
            absorbs: vec![RegionId(5)],
            configurations: vec![(LogIndex(8), descriptor.clone())],
            children: vec![region(6, "t", "")],
            blocked: None,
        },
    }
}

fn survey(store: u64, replicas: Vec<ReplicaSurvey>) -> StoreSurvey {
    let descriptor = region(4, "a", "b");
    let buried = BuriedReplica {
        descriptor: descriptor.clone(),
        replica: ReplicaId(41),
        merged: false,
        committed: (LogIndex(2), Term(1)),
    };
    let damaged = DamagedReplica { region: RegionId(4), descriptor: Some(descriptor), reason: "a test".to_owned() };
    StoreSurvey {
        cluster: ClusterId(7),
        store: StoreId(store),
        incarnation: Incarnation(3),
        dead: vec![StoreId(9)],
        ids_upto: 77,
        stores: vec![(StoreId(1), false), (StoreId(9), true)],
        next_id: Some(1 << 24),
        replicas,
        damaged: vec![damaged],
        promises: vec![(RegionId(2), Term(4))],
        tombstones: vec![buried],
    }
}

#[test]
fn files_that_make_no_sense_inside_are_refused_and_never_break_the_planner() {
    let dead = [7, 8].map(StoreId);
    let survey_of = || survey(1, vec![replica(&region(2, "", "m")), replica(&region(3, "m", ""))]);
    let plan = make_plan(&[survey_of()], &dead, &PlanOptions::default()).unwrap();
    let whole = survey_of();
    let mut seed = 1u64;
    let mut draw = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    let (mut readable, mut refused) = (0, 0);
    for _ in 0..4_000 {
        for (kind, file) in [(Kind::Survey, whole.encode()), (Kind::Plan, plan.encode())] {
            let mut body = file[10..file.len() - 4].to_vec();
            for _ in 0..=draw(3) {
                let at = draw(body.len());
                body[at] = u8::try_from(draw(256)).unwrap();
            }
            body.truncate(body.len() - if draw(8) == 0 { draw(body.len()) } else { 0 });
            let file = seal(kind, &body);
            if kind == Kind::Plan {
                let _ = Plan::decode(&file).map(|plan| plan.id());
                continue;
            }
            match StoreSurvey::decode(&file) {
                Ok(found) => {
                    readable += 1;
                    let options = PlanOptions { fill_gaps: draw(2) == 0, ..PlanOptions::default() };
                    let _ = make_plan(std::slice::from_ref(&found), &dead, &options);
                    let _ = make_plan(&[found, survey(2, Vec::new())], &dead, &options);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(readable > 200 && refused > 200, "{readable} were read, {refused} were not");
}
