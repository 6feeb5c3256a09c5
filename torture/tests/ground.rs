//! Both nets by themselves: what they drop they count, one way at a time, and nothing is left of them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test, which says what it cannot do here")]

use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use multiraft_torture::ground::{Fault, Faults, Met, Net, Proxy, Spaces, free_address};
use multiraft_torture::stop::{Stop, look_again};

/// How long something may take that is done at once on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);
/// How long nothing has to come until it is taken for lost.
const LOST: Duration = Duration::from_millis(300);

/// How many of ten datagrams come through the proxy, which is to pass those of store `from` to the other of two.
fn passed(net: &Net, stores: &[UdpSocket; 2], from: usize) -> usize {
    let to = 1 - from;
    let way = net.way(from as u64 + 1, to as u64 + 1, stores[to].local_addr().unwrap());
    for number in 0..10 {
        stores[from].send_to(&[number], way).unwrap();
    }
    stores[to].set_read_timeout(Some(LOST)).unwrap();
    (0..30).take_while(|_| stores[to].recv_from(&mut [0; 9]).is_ok()).count()
}

#[test]
fn the_proxy_passes_loses_doubles_and_delays_one_way_at_a_time_and_counts() {
    let stores = [(); 2].map(|()| UdpSocket::bind(free_address()).unwrap());
    let listens = [1, 2].map(|id| (id, stores[id as usize - 1].local_addr().unwrap()));
    let net = Net::Proxy(Proxy::start(&listens, 1).unwrap());
    let both = |net: &Net| (passed(net, &stores, 0), passed(net, &stores, 1));
    assert_eq!(both(&net), (10, 10));

    net.strike(&Faults::from([((1, 2), Fault::Cut)])).unwrap();
    assert_eq!(both(&net), (0, 10));
    assert_eq!(net.heal().unwrap(), Met::from([((1, 2), 10)]));

    net.strike(&Faults::from([((1, 2), Fault::Loss(100)), ((2, 1), Fault::Late(20))])).unwrap();
    assert_eq!(both(&net), (0, 10));
    assert_eq!(net.heal().unwrap(), Met::from([((1, 2), 10), ((2, 1), 10)]));

    net.strike(&Faults::from([((1, 2), Fault::Twice(100))])).unwrap();
    assert_eq!(both(&net), (20, 10));
    assert_eq!(net.heal().unwrap(), Met::from([((1, 2), 10)]));
    assert_eq!(both(&net), (10, 10));

    // An answer takes the way of the question.
    let way = net.way(1, 2, listens[1].1);
    stores[0].send_to(b"?", way).unwrap();
    let (_, asked_by) = stores[1].recv_from(&mut [0; 9]).unwrap();
    stores[1].send_to(b"!", asked_by).unwrap();
    stores[0].set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(stores[0].recv_from(&mut [0; 9]).unwrap().1, way);
    assert_eq!(net.heal().unwrap(), Met::new());
}

#[test]
fn namespaces_drop_one_way_at_a_time_and_count_and_go() {
    let spaces = match Spaces::make(2) {
        Ok(spaces) => spaces,
        Err(reason) => return println!("no namespaces on this machine: {reason}"),
    };
    let (name, addresses) = (spaces.name().to_owned(), [1, 2].map(|store| spaces.address(store)));
    let net = Net::Spaces(spaces);
    let send = |from: u64, to: u64| {
        let line = format!("echo > /dev/udp/{}/9", addresses[to as usize - 1]);
        assert!(net.command(from, "bash").args(["-c", &line]).status().unwrap().success());
    };
    for fault in [Fault::Cut, Fault::Loss(99)] {
        net.strike(&Faults::from([((1, 2), fault)])).unwrap();
        (0..9).for_each(|_| send(1, 2));
        (0..3).for_each(|_| send(2, 1));
        // Nobody listens there, and that is answered, which has to pass the filter as well: 2 hears nothing of 1.
        let met = net.heal().unwrap();
        assert!(met.len() == 1 && met[&(1, 2)] >= 5, "{met:?}");
    }
    net.strike(&Faults::from([((1, 2), Fault::Cut), ((2, 1), Fault::Cut)])).unwrap();
    send(2, 1);
    assert_eq!(net.heal().unwrap(), Met::from([((1, 2), 0), ((2, 1), 1)]));
    net.strike(&Faults::from([((1, 2), Fault::Late(5))])).unwrap_err();
    assert!(Spaces::is_there(&name));
    drop(net);
    assert!(!Spaces::is_there(&name));
}

/// What the next test runs in a process of its own: namespaces, with a program in them.
#[test]
#[ignore = "waits until it is killed"]
fn namespaces_until_killed() {
    let spaces = Spaces::make(1).unwrap();
    let mut child = spaces.command(1, "sleep").arg("60").spawn().unwrap();
    println!("made {}.", spaces.name());
    Stop::default().within(LIMIT * 2);
    child.wait().unwrap();
}

#[test]
fn a_signal_and_a_panic_leave_no_namespaces() {
    if let Err(reason) = Spaces::make(1) {
        return println!("no namespaces on this machine: {reason}");
    }
    for signal in ["-INT", "-TERM"] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "namespaces_until_killed"]);
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let made = said
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("made ").map(|(_, name)| name.trim_end_matches('.').to_owned()));
        let name = made.unwrap();
        assert!(Spaces::is_there(&name));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), None, "{ended}: it ends by the signal");
        let begun = Instant::now();
        while Spaces::is_there(&name) {
            assert!(look_again(begun, LIMIT), "{signal} has left {name}");
        }
    }
    let made = std::thread::spawn(|| {
        let spaces = Spaces::make(1).unwrap();
        std::panic::panic_any(spaces.name().to_owned());
    });
    let name = made.join().unwrap_err().downcast::<String>().unwrap();
    assert!(!Spaces::is_there(&name), "a panic has left {name}");
}
