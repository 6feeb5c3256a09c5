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
        self.store = self.pinned.unwrap_or_else(|| self.random.index(self.addresses.len()));
        let Some(address) = self.addresses.get(self.store) else { return Err("there is no such store".to_owned()) };
        let line = Line::open(*address, self.timeout);
        self.line = Some(line.map_err(|error| format!("{address} takes no connection: {error}"))?);
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
        if let Ok(line) = Line::open(self.addresses[other], self.timeout.min(CONNECT_TIMEOUT)) {
            (self.store, self.line) = (other, Some(line));
        }
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
