//! Sessions: commands that take effect once, however often they are sent, and through whichever store.
//!
//! ```text
//! SESSION OPEN log                                 -> token
//! SESSION DO token 1 0 APPEND log 0000017.000001,  -> the log's new length, which tells the place
//! ```
//!
//! A client has one session, in the log that it works on, and one command under way. One of unknown outcome it sends again through
//! another store until it is answered; now and then it sends one that was just answered again, which must be told the same place.

use std::time::Duration;

use super::client::{Answer, Client, Done, named, number, senseless, text};
use super::elements::{COMMAND_BYTES, command, commands};
use super::keys::{Group, Keys, Life};
use super::scenario::{Player, Scenario};
use crate::client::{Reply, Told, told, words};
use crate::history::Value;
use crate::trouble::{Outcome, Trouble};

const SLOTS: u64 = 4;
/// Each read tells a whole log.
const LIFE: Life = Life { uses: 40, length: Duration::from_secs(20) };
/// How many commands a client sends in one session, until it opens another in another log.
const COMMANDS: i64 = 12;

#[derive(Debug)]
pub(super) struct Logs {
    keys: Keys,
}

impl Logs {
    pub(super) fn new(seed: u64) -> Self {
        Self { keys: Keys::new(seed, 'e', SLOTS, LIFE) }
    }
}

impl Scenario for Logs {
    fn keys(&self) -> &Keys {
        &self.keys
    }

    fn player<'a>(&'a self, _number: u64) -> Box<dyn Player + 'a> {
        Box::new(Sender { keys: &self.keys, session: None })
    }

    fn read(&self, client: &mut Client<'_>, group: Group) -> Outcome<Done> {
        read(client, &self.keys.name(group))
    }
}

#[derive(Debug)]
struct Session {
    /// Its number in the history.
    number: i64,
    log: String,
    token: String,
    /// Of the command under way, or the next.
    sequence: i64,
    /// Whether it was sent: from then on the store may have forgotten what it answered to the one before.
    is_sent: bool,
}

#[derive(Debug)]
struct Sender<'a> {
    keys: &'a Keys,
    session: Option<Session>,
}

impl Player for Sender<'_> {
    fn step(&mut self, client: &mut Client<'_>) -> Outcome<Done> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => match self.open(client)? {
                Ok(session) => session,
                Err(why) => return Ok(Done::NotAnswered(why)),
            },
        };
        if client.random.chance(150) {
            let done = read(client, &session.log);
            self.session = Some(session);
            return done;
        }
        if session.sequence > 1 && !session.is_sent && client.random.chance(200) {
            client.go_elsewhere();
            let again = session.sequence - 1;
            let done = session.send(client, again)?;
            self.session = if is_expired(&done) { None } else { Some(session) };
            return Ok(done);
        }
        session.is_sent = true;
        let done = session.send(client, session.sequence)?;
        match &done {
            Done::Answered => (session.sequence, session.is_sent) = (session.sequence + 1, false),
            Done::NotAnswered(_) => client.go_elsewhere(),
        }
        let is_over = is_expired(&done) || session.sequence > COMMANDS;
        self.session = if is_over { None } else { Some(session) };
        Ok(done)
    }
}

fn is_expired(done: &Done) -> bool {
    matches!(done, Done::NotAnswered(why) if why.starts_with(told::SESSION_EXPIRED))
}

impl Sender<'_> {
    /// Opens a session, or says why there is none. Not recorded: a session of which nobody knows does nothing.
    fn open(&self, client: &mut Client<'_>) -> Outcome<Result<Session, String>> {
        let (group, _) = self.keys.draw(&mut client.random);
        let log = self.keys.name(group);
        match client.ask(&words(&["SESSION", "OPEN", &log]))? {
            Told::Answered(reply @ Reply::Value(Some(_))) => {
                let token = text(reply)?.unwrap_or_default();
                Ok(Ok(Session { number: client.unique(), log, token, sequence: 1, is_sent: false }))
            }
            Told::Answered(other) => Err(senseless(&other)),
            Told::Refused(why) | Told::Unknown(why) => {
                client.hang_up();
                Ok(Err(why))
            }
        }
    }
}

impl Session {
    /// Sends a command of the log. All before the one under way has been answered, and what is sent again counts as not yet.
    fn send(&self, client: &mut Client<'_>, sequence: i64) -> Outcome<Done> {
        let (log, number_) = (named(&self.log), Value::Int(self.number));
        let asked = Value::list([log, number_, Value::Int(sequence)]);
        let element = command(self.number, sequence);
        let (number_text, acknowledged) = (sequence.to_string(), (sequence - 1).to_string());
        let sent = words(&["SESSION", "DO", &self.token, &number_text, &acknowledged, "APPEND", &self.log, &element]);
        client.perform("command", asked.clone(), &sent, |reply| {
            let length = number(&reply)?;
            if length < COMMAND_BYTES || length % COMMAND_BYTES != 0 {
                return Err(Trouble::new(format!("{} bytes are no whole number of commands in {}", length, self.log)));
            }
            let mut told = asked.as_list().unwrap_or_default().to_vec();
            told.push(Value::Int(length / COMMAND_BYTES));
            Ok(Answer::Ok(Value::List(told)))
        })
    }
}

fn read(client: &mut Client<'_>, log: &str) -> Outcome<Done> {
    client.perform("read", Value::keyed(named(log), Value::Nil), &words(&["GET", log]), |reply| {
        let pair = |(session, sequence)| Value::keyed(Value::Int(session), Value::Int(sequence));
        let found = commands(text(reply)?.as_deref())?;
        Ok(Answer::Ok(Value::keyed(named(log), Value::list(found.into_iter().map(pair)))))
    })
}
