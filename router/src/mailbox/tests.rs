//! What a mailbox accepts, refuses and gives back, with the channel's receiver in the test's own hand.

use super::*;

const ROOM: Room = Room { callers: Limit { count: 2, bytes: 100 }, peers: Limit { count: 1, bytes: 100 }, reserved: 2 };

#[test]
fn full_account_gives_the_input_back() {
    let (mailbox, _receiver) = Mailbox::new(0, ROOM);
    mailbox.try_send("a", 1).unwrap();
    mailbox.try_send("b", 1).unwrap();
    assert!(matches!(mailbox.try_send("c", 1), Err(SendError::Busy("c"))));
    assert_eq!((mailbox.queued(), mailbox.queued_bytes()), (2, 2));
}

#[test]
fn accounts_do_not_crowd_each_other_out() {
    let (mailbox, receiver) = Mailbox::new(0, ROOM);
    mailbox.try_send("a", 1).unwrap();
    mailbox.try_send("b", 1).unwrap();
    assert!(mailbox.try_send("c", 1).is_err());
    mailbox.try_send_from_peer("d", 1).unwrap();
    assert!(mailbox.try_send_from_peer("e", 1).is_err());
    mailbox.send_reserved("f").unwrap();
    mailbox.send_reserved("g").unwrap();
    mailbox.accounts().close();
    mailbox.send_stop();
    assert_eq!(receiver.len(), 6);
}

#[test]
fn oversized_input_is_told_apart_from_a_busy_queue() {
    let (mailbox, _receiver) = Mailbox::new(0, ROOM);
    assert!(matches!(mailbox.try_send("huge", 101), Err(SendError::TooLarge("huge"))));
    assert_eq!(mailbox.queued_bytes(), 0);
}

#[test]
fn lost_worker_closes_and_leaves_the_accounts_straight() {
    let (mailbox, receiver) = Mailbox::new(0, ROOM);
    drop(receiver);
    assert!(matches!(mailbox.try_send("a", 1), Err(SendError::Closed("a"))));
    assert!(matches!(mailbox.send_reserved("b"), Err(SendError::Closed("b"))));
    mailbox.accounts().close();
    assert!(mailbox.accounts().is_drained());
}

#[test]
fn closing_the_outside_lets_completions_through() {
    let (mailbox, _receiver) = Mailbox::new(0, ROOM);
    mailbox.accounts().close_outside();
    assert!(matches!(mailbox.try_send("a", 1), Err(SendError::Closed("a"))));
    assert!(matches!(mailbox.try_send_from_peer("a", 1), Err(SendError::Closed("a"))));
    mailbox.send_reserved("b").unwrap();
    mailbox.accounts().close();
    assert_eq!(mailbox.send_reserved("c").unwrap_err().into_input(), "c");
}

#[test]
fn completions_over_their_reserve_are_taken_all_the_same() {
    let (mailbox, receiver) = Mailbox::new(0, ROOM);
    let sent = 20;
    assert!(sent > ROOM.reserved);
    (0..sent).for_each(|n| mailbox.send_reserved(n).unwrap());
    assert_eq!(mailbox.accounts().get(Account::Reserved).count(), sent as u64);
    for expected in 0..sent {
        let Envelope::Work { input, account, bytes } = *receiver.recv().unwrap() else { panic!("work only") };
        assert_eq!((input, account), (expected, Account::Reserved));
        mailbox.accounts().get(account).release(1, bytes);
    }
    assert_eq!(mailbox.accounts().get(Account::Reserved).count(), 0);
}
