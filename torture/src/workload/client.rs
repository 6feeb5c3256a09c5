//! One client: asks, and keeps the record of it.
//!
//! Nothing is recorded before there is a connection, so that an invocation means that something was sent, or may have been. After
//! an unknown outcome the client goes on under another number.

use std::time::{Duration, Instant};

use super::ground::Ground;
use crate::client::{Caller, Reply, Told, Words, local};
use crate::history::{Ticket, Value};
use crate::random::Random;
use crate::stop::Stop;
use crate::trouble::{Outcome, Trouble};

/// How long to wait before something is tried again within an operation.
const PAUSE: Duration = Duration::from_millis(10);

/// How an attempt at an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// It was answered, be it by "not so".
    Answered,
    /// It was not, for this reason: refused, of unknown outcome, or never asked.
    NotAnswered(String),
}

/// What an answer is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The operation took effect, and this is what the client was told.
    Ok(Value),
    /// It did not take effect, since something was not as it had to be.
    Not(&'static str),
}

#[derive(Debug)]
pub(super) struct Client<'a> {
    ground: &'a Ground,
    process: u64,
    pub(super) random: Random,
    caller: Caller,
}

impl<'a> Client<'a> {
    pub(super) fn new(ground: &'a Ground, number: u64) -> Self {
        let settings = &ground.settings;
        let addresses = settings.places.iter().map(|place| place.resp).collect();
        let caller = Caller::new(addresses, settings.request_timeout, Random::of_part(settings.seed, "caller", number));
        let random = Random::of_part(settings.seed, "client", number);
        Self { ground, process: ground.recorder.new_client(), random, caller }
    }

    /// From now on asks that store only, or any.
    pub(super) fn pin(&mut self, store: Option<usize>) {
        self.caller.pin(store);
    }

    pub(super) fn store(&self) -> usize {
        self.caller.store()
    }

    /// Another store may be the next that is asked.
    pub(super) fn choose_store(&mut self) {
        self.caller.choose_store();
    }

    pub(super) fn hang_up(&mut self) {
        self.caller.hang_up();
    }

    pub(super) fn go_elsewhere(&mut self) {
        self.caller.go_elsewhere();
    }

    /// A number that no client has had, from 1 on.
    pub(super) fn unique(&self) -> i64 {
        self.ground.unique()
    }

    /// Waits a little within an operation that began then; whether there is time for another attempt.
    pub(super) fn may_try_again(&self, begun: Instant) -> bool {
        Stop::default().within(PAUSE);
        begun.elapsed() < self.ground.settings.request_timeout && !self.ground.broken.is_told()
    }

    /// An operation that is one command.
    pub(super) fn perform(
        &mut self,
        f: &str,
        input: Value,
        command: &[String],
        understand: impl FnOnce(Reply) -> Outcome<Answer>,
    ) -> Outcome<Done> {
        let Some(ticket) = self.begin(f, input) else { return Ok(self.unasked()) };
        let told = self.ask(command)?;
        self.end(ticket, told, understand)
    }

    /// An operation that is a transaction; the reply is an array of as many.
    pub(super) fn perform_all(
        &mut self,
        f: &str,
        input: Value,
        commands: &[Words],
        understand: impl FnOnce(Vec<Reply>) -> Outcome<Answer>,
    ) -> Outcome<Done> {
        let Some(ticket) = self.begin(f, input) else { return Ok(self.unasked()) };
        let told = self.caller.transact(commands)?;
        self.end(ticket, told, |reply| match reply {
            Reply::Array(replies) => understand(replies),
            other => Err(senseless(&other)),
        })
    }

    /// A read of bounded age of the store that is asked now, through its admin endpoint.
    pub(super) fn perform_local(
        &mut self,
        f: &str,
        input: Value,
        (key, staleness_ms): (&str, u64),
        timeout: Duration,
        understand: impl FnOnce(Reply) -> Outcome<Answer>,
    ) -> Outcome<Done> {
        let Some(place) = self.ground.settings.places.get(self.store()) else { return Ok(self.unasked()) };
        let socket = match local::connect(place.admin, timeout) {
            Ok(socket) => socket,
            Err(why) => return Ok(Done::NotAnswered(why)),
        };
        let ticket = self.ground.recorder.invoke(self.process, f, input);
        let told = local::read(socket, timeout, key, staleness_ms)?;
        self.end(ticket, told, understand)
    }

    /// Begins an operation, if there is a connection to be had.
    pub(super) fn begin(&mut self, f: &str, input: Value) -> Option<Ticket> {
        self.caller.connect().ok()?;
        Some(self.ground.recorder.invoke(self.process, f, input))
    }

    /// Nothing was asked, since there is no connection.
    pub(super) fn unasked(&self) -> Done {
        let place = self.ground.settings.places.get(self.store());
        Done::NotAnswered(format!("store {} takes no connection", place.map_or(0, |place| place.store)))
    }

    /// Asks something, as a part of an operation.
    pub(super) fn ask(&mut self, command: &[String]) -> Outcome<Told> {
        self.caller.ask(command)
    }

    /// Ends an operation by what was told.
    pub(super) fn end(
        &mut self,
        ticket: Ticket,
        told: Told,
        understand: impl FnOnce(Reply) -> Outcome<Answer>,
    ) -> Outcome<Done> {
        match told {
            Told::Answered(reply) => {
                let answer = understand(reply)?;
                Ok(self.end_answered(ticket, answer))
            }
            Told::Refused(why) => Ok(self.end_refused(ticket, why)),
            Told::Unknown(why) => Ok(self.end_unknown(ticket, why)),
        }
    }

    pub(super) fn end_answered(&mut self, ticket: Ticket, answer: Answer) -> Done {
        match answer {
            Answer::Ok(value) => self.ground.recorder.ok(ticket, value),
            Answer::Not(why) => self.ground.recorder.fail(ticket, why),
        }
        self.ground.count_answered();
        if self.random.chance(10) {
            self.caller.hang_up();
        }
        Done::Answered
    }

    pub(super) fn end_refused(&mut self, ticket: Ticket, why: String) -> Done {
        self.ground.recorder.fail(ticket, &why);
        self.ground.count_refused();
        if self.random.chance(500) {
            self.caller.hang_up();
        }
        Done::NotAnswered(why)
    }

    pub(super) fn end_unknown(&mut self, ticket: Ticket, why: String) -> Done {
        self.ground.recorder.info(ticket, &why);
        self.ground.count_unknown();
        self.process = self.ground.recorder.new_client();
        if self.random.chance(500) {
            self.caller.hang_up();
        }
        Done::NotAnswered(why)
    }
}

/// The answer to a request to which there are none such.
pub(super) fn senseless(reply: &Reply) -> Trouble {
    Trouble::new(format!("an answer makes no sense: {reply:?}"))
}

/// The reply of what is done in any case.
pub(super) fn is_done(reply: &Reply) -> Outcome<()> {
    match reply {
        Reply::Simple(text) if text == "OK" => Ok(()),
        other => Err(senseless(other)),
    }
}

/// The reply of what is done under a condition: whether it was.
pub(super) fn was_done(reply: &Reply) -> Outcome<bool> {
    match reply {
        Reply::Value(None) => Ok(false),
        other => is_done(other).map(|()| true),
    }
}

/// A number.
pub(super) fn number(reply: &Reply) -> Outcome<i64> {
    if let Reply::Number(number) = reply { Ok(*number) } else { Err(senseless(reply)) }
}

/// The text that a key holds, if it holds any.
pub(super) fn text(reply: Reply) -> Outcome<Option<String>> {
    match reply {
        Reply::Value(None) => Ok(None),
        Reply::Value(Some(bytes)) => {
            String::from_utf8(bytes).map(Some).map_err(|error| senseless(&Reply::Value(Some(error.into_bytes()))))
        }
        other => Err(senseless(&other)),
    }
}

/// The number that a key holds, if it holds any.
pub(super) fn held(reply: Reply) -> Outcome<Option<i64>> {
    let wanted = |text: String| text.parse().map_err(|_| Trouble::new(format!("a key should hold a number: `{text}`")));
    text(reply)?.map(wanted).transpose()
}

/// A value that may be missing.
pub(super) fn or_nil(number: Option<i64>) -> Value {
    number.map_or(Value::Nil, Value::Int)
}

/// What a group is called in histories.
pub(super) fn named(name: &str) -> Value {
    Value::from(name)
}
