//! Somebody who asks any store: connects to one that takes the connection, and to another when that breaks.

use std::net::SocketAddr;
use std::time::Duration;

use super::resp::{Line, Reply, Words, words};
use super::told::Told;
use crate::random::Random;
use crate::trouble::{Outcome, Trouble};

/// How long a connection may take; stores are near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One connection at a time to one of several stores.
#[derive(Debug)]
pub struct Caller {
    addresses: Vec<SocketAddr>,
    timeout: Duration,
    random: Random,
    line: Option<Line>,
    /// Which store it is connected to, or was last.
    store: usize,
    /// The only store to be asked.
    pinned: Option<usize>,
}

impl Caller {
    /// Asks stores at these addresses, at least one, and waits so long for each exchange.
    #[must_use]
    pub fn new(addresses: Vec<SocketAddr>, timeout: Duration, random: Random) -> Self {
        Self { addresses, timeout, random, line: None, store: 0, pinned: None }
    }

    /// From now on asks that store only, or any.
    pub fn pin(&mut self, store: Option<usize>) {
        self.pinned = store;
        self.line = None;
    }

    /// The place, among the addresses, of the store that is asked now.
    #[must_use]
    pub fn store(&self) -> usize {
        self.pinned.unwrap_or(self.store)
    }

    /// Draws the store that is asked next; the connection to another is left.
    pub fn choose_store(&mut self) {
        if self.pinned.is_none() && !self.addresses.is_empty() {
            let store = self.random.index(self.addresses.len());
            if store != self.store {
                self.line = None;
            }
            self.store = store;
        }
    }

    /// Makes sure that there is a connection.
    ///
    /// # Errors
    /// The store does not take one, for this reason. Nothing was asked.
    pub fn connect(&mut self) -> Result<(), String> {
        if self.line.is_some() {
            return Ok(());
        }
        if self.addresses.is_empty() {
            return Err("there are no stores to be asked".to_owned());
        }
        self.store = self.pinned.unwrap_or_else(|| self.random.index(self.addresses.len()));
        self.line = Some(self.open(self.store)?);
        Ok(())
    }

    /// Leaves the connection; the next request goes to any store.
    pub fn hang_up(&mut self) {
        self.line = None;
    }

    /// Leaves the connection for one to another store, if there is another.
    pub fn go_elsewhere(&mut self) {
        self.line = None;
        if self.pinned.is_some() || self.addresses.len() < 2 {
            return;
        }
        let other = self.random.index(self.addresses.len() - 1);
        let other = if other < self.store { other } else { other + 1 };
        if let Ok(line) = self.open(other) {
            (self.store, self.line) = (other, Some(line));
        }
    }

    fn open(&self, store: usize) -> Result<Line, String> {
        let address = self.addresses.get(store).ok_or_else(|| "there is no such store".to_owned())?;
        let line = Line::open(*address, self.timeout.min(CONNECT_TIMEOUT), self.timeout);
        line.map_err(|error| format!("{address} takes no connection: {error}"))
    }

    /// Carries out a command. Without a connection it makes one; if there is none to be had, the command is refused.
    ///
    /// # Errors
    /// The answer is none that may come.
    pub fn ask(&mut self, command: &[String]) -> Outcome<Told> {
        if let Err(why) = self.connect() {
            return Ok(Told::Refused(why));
        }
        let Some(line) = &mut self.line else { return Ok(Told::Refused("there is no connection".to_owned())) };
        let exchange = line.ask(command);
        if exchange.is_err() {
            self.line = None;
        }
        Told::of(exchange).map_err(|trouble| Trouble::new(format!("{}: {trouble}", command.join(" "))))
    }

    /// Carries out commands between `MULTI` and `EXEC`. Answered is an array with a reply to each, none of them an error.
    ///
    /// # Errors
    /// An answer is none that may come.
    pub fn transact(&mut self, commands: &[Words]) -> Outcome<Told> {
        // Alone: if it were refused, what follows it at once would be carried out one by one.
        match self.ask(&words(&["MULTI"]))? {
            Told::Answered(Reply::Simple(text)) if text == "OK" => {}
            Told::Answered(other) => return Err(Trouble::new(format!("MULTI is answered by {other:?}"))),
            // Until EXEC nothing is done.
            Told::Refused(why) | Told::Unknown(why) => {
                self.line = None;
                return Ok(Told::Refused(why));
            }
        }
        let Some(line) = &mut self.line else { return Ok(Told::Refused("there is no connection".to_owned())) };
        let mut sent = commands.to_vec();
        sent.push(words(&["EXEC"]));
        let trouble = |what: String| Trouble::new(format!("MULTI {}: {what}", shown(&sent)));
        let mut replies = match line.ask_all(&sent) {
            Ok(replies) => replies,
            Err(broken) => {
                self.line = None;
                return Told::of_broken(broken).map_err(|why| trouble(why.to_string()));
            }
        };
        let executed = replies.pop().ok_or_else(|| trouble("EXEC has no reply".to_owned()))?;
        let mut refused = None;
        for reply in replies {
            match Told::of_reply(reply).map_err(|why| trouble(why.to_string()))? {
                Told::Answered(Reply::Simple(text)) if text == "QUEUED" => {}
                Told::Answered(other) => return Err(trouble(format!("a queued command is answered by {other:?}"))),
                Told::Refused(why) | Told::Unknown(why) => refused = Some(why),
            }
        }
        match (Told::of_reply(executed).map_err(|why| trouble(why.to_string()))?, refused) {
            (Told::Answered(Reply::Array(parts)), None) if parts.len() == commands.len() => {
                match parts.iter().find(|part| matches!(part, Reply::Error(_))) {
                    Some(error) => Err(trouble(format!("it was carried out, with {error:?}"))),
                    None => Ok(Told::Answered(Reply::Array(parts))),
                }
            }
            (Told::Answered(other), _) => Err(trouble(format!("EXEC is answered by {other:?}"))),
            (Told::Refused(_), Some(why)) => Ok(Told::Refused(why)),
            (told, _) => Ok(told),
        }
    }
}

fn shown(commands: &[Words]) -> String {
    commands.iter().map(|command| command.join(" ")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// A store that answers whatever comes by one text after the other, and then ends the connection.
    fn store(texts: &'static [&'static str]) -> Caller {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            for text in texts {
                if socket.read(&mut [0; 4096]).unwrap() == 0 {
                    return;
                }
                socket.write_all(text.as_bytes()).unwrap();
            }
        });
        Caller::new(vec![address], Duration::from_secs(10), Random::new(1))
    }

    fn transact(texts: &'static [&'static str]) -> Outcome<Told> {
        store(texts).transact(&[words(&["INCR", "a"]), words(&["INCR", "b"])])
    }

    #[test]
    fn a_transaction_is_answered_refused_or_of_unknown_outcome_as_a_whole() {
        const QUEUED: &[&str] = &["+OK\r\n", "+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n:2\r\n"];
        let both = Reply::Array(vec![Reply::Number(1), Reply::Number(2)]);
        assert_eq!(transact(QUEUED), Ok(Told::Answered(both)));
        let refused = transact(&["+OK\r\n", "-TRYAGAIN soon\r\n+QUEUED\r\n-EXECABORT no\r\n"]);
        assert_eq!(refused, Ok(Told::Refused("TRYAGAIN soon".to_owned())));
        let crossing = transact(&["+OK\r\n", "+QUEUED\r\n+QUEUED\r\n-CROSSREGION no\r\n"]);
        assert_eq!(crossing, Ok(Told::Refused("CROSSREGION no".to_owned())));
        let uncertain = transact(&["+OK\r\n", "+QUEUED\r\n+QUEUED\r\n-UNCERTAIN who knows\r\n"]);
        assert_eq!(uncertain, Ok(Told::Unknown("UNCERTAIN who knows".to_owned())));
        // Before EXEC was sent nothing can have happened, after it anything.
        assert!(matches!(transact(&[""]), Ok(Told::Refused(_))));
        assert!(matches!(transact(&["+OK\r\n", "+QUEUED\r\n"]), Ok(Told::Unknown(_))));
    }

    #[test]
    fn a_transaction_that_is_none_is_trouble() {
        let senseless: [&'static [&'static str]; 6] = [
            &["-ERR unknown command 'MULTI'\r\n"],
            &["+QUEUED\r\n"],
            &["+OK\r\n", "+QUEUED\r\n:5\r\n*2\r\n:1\r\n:2\r\n"],
            &["+OK\r\n", "+QUEUED\r\n+QUEUED\r\n*2\r\n:1\r\n-ERR value is not an integer\r\n"],
            &["+OK\r\n", "+QUEUED\r\n+QUEUED\r\n*1\r\n:1\r\n"],
            &["+OK\r\n", "-ERR syntax error\r\n+QUEUED\r\n-EXECABORT no\r\n"],
        ];
        for texts in senseless {
            assert!(transact(texts).is_err(), "{texts:?}");
        }
    }

    #[test]
    fn without_a_connection_nothing_is_asked() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for addresses in [vec![], vec![gone]] {
            let mut caller = Caller::new(addresses, Duration::from_secs(10), Random::new(1));
            assert!(caller.connect().is_err());
            assert!(matches!(caller.ask(&words(&["PING"])), Ok(Told::Refused(_))));
        }
    }
}
