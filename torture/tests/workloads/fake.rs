//! Stores in this process: one state, two doors to it, each with a RESP and an admin endpoint. Correct, also when connections
//! break and outcomes are unknown, unless they are told to lie.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use multiraft_torture::random::Random;
use multiraft_torture::stop::Stop;
use multiraft_torture::workload::Place;

/// What is wrong with the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Nothing, and nothing goes wrong.
    Calm,
    /// Nothing, but requests are refused, carried out late, or have no answer.
    Stormy,
    /// Reads tell what a key held some time ago.
    StaleReads,
    /// Some answered writes are not carried out.
    LostWrites,
    /// Some additions and appends are carried out twice.
    DoubleWrites,
    /// A session's command is carried out as often as it comes.
    DoubledSessions,
    /// Some transactions stop after their first command.
    TornTransactions,
    /// A condition of `SET` always holds.
    BlindConditions,
    /// Scans leave keys away.
    PatchyScans,
    /// What is answered is no RESP.
    Garbage,
    /// What is answered is an error that no store gives.
    StrangeErrors,
    /// What is answered fits no request.
    WrongKinds,
}

type Bytes = Vec<u8>;

#[derive(Debug)]
struct State {
    pairs: BTreeMap<Bytes, Bytes>,
    /// What keys held before, the oldest first.
    past: BTreeMap<Bytes, Vec<(Instant, Option<Bytes>)>>,
    /// What sessions' commands answered.
    sessions: BTreeMap<(Bytes, u64), Answer>,
    opened: u64,
    random: Random,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Ok,
    Number(i64),
    Value(Option<Bytes>),
    Array(Vec<Answer>),
    Error(&'static str),
}

#[derive(Debug)]
struct Stores {
    manner: Manner,
    state: Mutex<State>,
}

/// Stores that serve until this process ends.
pub(crate) fn stores(manner: Manner) -> Vec<Place> {
    let state = State {
        pairs: BTreeMap::new(),
        past: BTreeMap::new(),
        sessions: BTreeMap::new(),
        opened: 0,
        random: Random::new(5),
    };
    let stores = Arc::new(Stores { manner, state: Mutex::new(state) });
    let place = |store| {
        let resp = listen(&stores, |stores, socket| drop(stores.serve(socket)));
        let admin = listen(&stores, |stores, socket| drop(stores.serve_admin(socket)));
        Place { store, resp, admin }
    };
    (1..=2).map(place).collect()
}

fn listen(stores: &Arc<Stores>, serve: fn(&Arc<Stores>, TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stores = Arc::clone(stores);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let stores = Arc::clone(&stores);
            std::thread::spawn(move || serve(&stores, socket));
        }
    });
    address
}

impl Stores {
    fn serve(self: &Arc<Self>, mut socket: TcpStream) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        let mut input = BufReader::new(socket.try_clone()?);
        let mut queue: Option<Vec<Vec<Bytes>>> = None;
        loop {
            let words = request(&mut input)?;
            let name = words[0].to_ascii_uppercase();
            let out = match (name.as_slice(), &mut queue) {
                (b"MULTI", None) => {
                    queue = Some(Vec::new());
                    b"+OK\r\n".to_vec()
                }
                (b"EXEC", Some(_)) => match self.answer(Asked::All(queue.take().unwrap())) {
                    Some(answer) => encode(&answer),
                    None => return Ok(()),
                },
                (_, Some(queue)) => {
                    queue.push(words);
                    b"+QUEUED\r\n".to_vec()
                }
                (_, None) => match self.answer(Asked::One(words)) {
                    Some(answer) => encode(&answer),
                    None => return Ok(()),
                },
            };
            let out = match self.manner {
                Manner::Garbage => b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
                Manner::StrangeErrors => b"-ERR unknown command\r\n".to_vec(),
                Manner::WrongKinds => b"*2\r\n:1\r\n:2\r\n".to_vec(),
                _ => out,
            };
            socket.write_all(&out)?;
        }
    }

    /// What is said; nothing if the connection breaks instead.
    fn answer(self: &Arc<Self>, asked: Asked) -> Option<Answer> {
        let mut state = self.state.lock().unwrap();
        if self.manner == Manner::Stormy {
            match state.random.below(100) {
                0..2 => return Some(Answer::Error("TRYAGAIN the regions are changing: try again")),
                2..4 => {
                    // The caller is told at once, and it takes effect later.
                    let (stores, late) = (Arc::clone(self), Duration::from_millis(state.random.below(60)));
                    std::thread::spawn(move || {
                        Stop::default().within(late);
                        stores.state.lock().unwrap().carry_out(stores.manner, asked);
                    });
                    return Some(Answer::Error("UNCERTAIN the outcome is unknown"));
                }
                4 => {
                    state.carry_out(self.manner, asked);
                    return None;
                }
                5 => return None,
                _ => {}
            }
        }
        Some(state.carry_out(self.manner, asked))
    }

    fn serve_admin(&self, mut socket: TcpStream) -> std::io::Result<()> {
        let mut input = BufReader::new(socket.try_clone()?);
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            input.read_line(&mut line)?;
            length = line.strip_prefix("content-length: ").map_or(length, |text| text.trim_end().parse().unwrap());
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        let asked: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let key = unhex(asked["keys"][0].as_str().unwrap());
        let age = Duration::from_millis(asked["staleness_ms"].as_u64().unwrap());
        let mut state = self.state.lock().unwrap();
        let (status, text) = match (self.manner, state.random.below(20)) {
            (Manner::Garbage, _) => return socket.write_all(b"+OK\r\n"),
            (Manner::StrangeErrors, _) => ("404 Not Found", "there is no such thing\n".to_owned()),
            (Manner::WrongKinds, _) => ("200 OK", serde_json::json!({ "values": [] }).to_string()),
            (_, 0) => ("503 Service Unavailable", "no leader confirmed the read in time: try again\n".to_owned()),
            (manner, _) => {
                let age = if manner == Manner::StaleReads { age + Duration::from_millis(150) } else { age / 2 };
                let value = state.held_before(&key, age);
                let hex = value.map(|value| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
                ("200 OK", serde_json::json!({ "values": [hex] }).to_string())
            }
        };
        drop(state);
        write!(socket, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len())
    }
}

/// What is carried out at one moment.
enum Asked {
    One(Vec<Bytes>),
    All(Vec<Vec<Bytes>>),
}

impl State {
    fn carry_out(&mut self, manner: Manner, asked: Asked) -> Answer {
        match asked {
            Asked::One(words) => self.command(manner, &words),
            Asked::All(commands) => {
                let torn = manner == Manner::TornTransactions && self.random.chance(100);
                let mut answers = Vec::new();
                for (at, words) in commands.iter().enumerate() {
                    let before = self.pairs.clone();
                    answers.push(self.command(manner, words));
                    if torn && at > 0 {
                        self.pairs = before;
                    }
                }
                Answer::Array(answers)
            }
        }
    }

    fn command(&mut self, manner: Manner, words: &[Bytes]) -> Answer {
        let name = words[0].to_ascii_uppercase();
        let key = words.get(1).cloned().unwrap_or_default();
        match (name.as_slice(), words) {
            (b"GET", _) => Answer::Value(self.read(manner, &key)),
            (b"MGET", [_, keys @ ..]) => {
                Answer::Array(keys.iter().map(|key| Answer::Value(self.read(manner, key))).collect())
            }
            (b"SET", [_, _, value, condition @ ..]) => {
                let holds = manner == Manner::BlindConditions
                    || match condition {
                        [] => true,
                        [nx] => nx == b"NX" && !self.pairs.contains_key(&key),
                        [_, old, ..] => self.pairs.get(&key) == Some(old),
                    };
                if holds {
                    self.write(manner, &key, Some(value.clone()));
                }
                if holds { Answer::Ok } else { Answer::Value(None) }
            }
            (b"MSET", [_, pairs @ ..]) => {
                pairs.chunks(2).for_each(|pair| self.write(manner, &pair[0], Some(pair[1].clone())));
                Answer::Ok
            }
            (b"DEL", _) => {
                let was_there = self.pairs.contains_key(&key);
                self.write(manner, &key, None);
                Answer::Number(i64::from(was_there))
            }
            (b"APPEND", [_, _, suffix]) => {
                let mut value = self.pairs.get(&key).cloned().unwrap_or_default();
                value.extend(suffix.repeat(self.times(manner)));
                let length = value.len() as i64;
                self.write(manner, &key, Some(value));
                Answer::Number(length)
            }
            (b"INCR", _) => self.add(manner, &key, 1),
            (b"INCRBY", [_, _, step]) => self.add(manner, &key, number(step)),
            (b"DECRBY", [_, _, step]) => self.add(manner, &key, -number(step)),
            (b"SCAN", _) => self.scan(manner, number(&key) as usize, number(&words[3]) as usize),
            (b"SESSION", [_, open, _]) if open == b"OPEN" => {
                self.opened += 1;
                Answer::Value(Some(self.opened.to_string().into_bytes()))
            }
            (b"SESSION", [_, _, token, sequence, acknowledged, command @ ..]) => {
                let (token, sequence) = (token.clone(), number(sequence) as u64);
                let acknowledged = number(acknowledged) as u64;
                assert!(acknowledged < sequence);
                self.sessions.retain(|(of, known), _| *of != token || *known > acknowledged);
                let is_new =
                    manner == Manner::DoubledSessions || !self.sessions.contains_key(&(token.clone(), sequence));
                let is_late = self.sessions.keys().any(|(of, known)| *of == token && *known > sequence);
                if is_late {
                    return Answer::Error("SESSIONEXPIRED it has gone on");
                }
                if is_new {
                    let answer = self.command(manner, command);
                    self.sessions.insert((token.clone(), sequence), answer);
                }
                self.sessions[&(token, sequence)].clone()
            }
            _ => Answer::Error("ERR unknown command"),
        }
    }

    /// From the key at that place on; the cursor is a place, which is good enough while no key comes before it.
    fn scan(&mut self, manner: Manner, cursor: usize, count: usize) -> Answer {
        let keys: Vec<Bytes> = self.pairs.keys().cloned().collect();
        // Keys may come and go: a cursor stands for a key.
        let start = if cursor == 0 { Bytes::new() } else { format!("key:{:06}:", cursor).into_bytes() };
        let rest: Vec<&Bytes> = keys.iter().filter(|key| **key >= start).collect();
        let page = &rest[..count.min(rest.len())];
        let next = match rest.get(count) {
            None => 0,
            // The digits of the first key that was not told. No two keys of a scan share them.
            Some(key) => number(&key[4..10]),
        };
        let is_told = |_: &&&Bytes| manner != Manner::PatchyScans || self.random.chance(980);
        let told = page.iter().filter(is_told).map(|key| Answer::Value(Some((*key).clone()))).collect();
        Answer::Array(vec![Answer::Value(Some(next.to_string().into_bytes())), Answer::Array(told)])
    }

    fn add(&mut self, manner: Manner, key: &Bytes, step: i64) -> Answer {
        let before = self.pairs.get(key).map_or(0, |value| number(value));
        let after = before + step * self.times(manner) as i64;
        self.write(manner, key, Some(after.to_string().into_bytes()));
        Answer::Number(after)
    }

    fn times(&mut self, manner: Manner) -> usize {
        if manner == Manner::DoubleWrites && self.random.chance(100) { 2 } else { 1 }
    }

    fn write(&mut self, manner: Manner, key: &Bytes, value: Option<Bytes>) {
        if manner == Manner::LostWrites && self.random.chance(50) {
            return;
        }
        let before = match value {
            Some(value) => self.pairs.insert(key.clone(), value),
            None => self.pairs.remove(key),
        };
        self.past.entry(key.clone()).or_default().push((Instant::now(), before));
    }

    fn read(&mut self, manner: Manner, key: &Bytes) -> Option<Bytes> {
        if manner == Manner::StaleReads && self.random.chance(100) {
            let past = self.past.get(key)?;
            let at = past.len().saturating_sub(1 + self.random.below(3) as usize);
            return past[at].1.clone();
        }
        self.pairs.get(key).cloned()
    }

    /// What a key held so long ago.
    fn held_before(&self, key: &Bytes, age: Duration) -> Option<Bytes> {
        let changes = self.past.get(key).into_iter().flatten();
        match changes.clone().find(|(at, _)| at.elapsed() < age) {
            Some((_, before)) => before.clone(),
            None => self.pairs.get(key).cloned(),
        }
    }
}

fn request(input: &mut impl BufRead) -> std::io::Result<Vec<Bytes>> {
    let mut count = |sign: char| {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let digits = line.strip_prefix(sign).and_then(|line| line.strip_suffix("\r\n"));
        let count: usize = digits.and_then(|digits| digits.parse().ok()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let mut bytes = vec![0; if sign == '$' { count + 2 } else { 0 }];
        input.read_exact(&mut bytes)?;
        bytes.truncate(count);
        Ok((count, bytes))
    };
    let (words, _) = count('*')?;
    (0..words).map(|_| count('$').map(|(_, bytes)| bytes)).collect()
}

fn encode(answer: &Answer) -> Bytes {
    match answer {
        Answer::Ok => b"+OK\r\n".to_vec(),
        Answer::Number(number) => format!(":{number}\r\n").into_bytes(),
        Answer::Value(None) => b"$-1\r\n".to_vec(),
        Answer::Value(Some(value)) => [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat(),
        Answer::Array(parts) => {
            let parts: Vec<Bytes> = parts.iter().map(encode).collect();
            [format!("*{}\r\n", parts.len()).into_bytes(), parts.concat()].concat()
        }
        Answer::Error(text) => format!("-{text}\r\n").into_bytes(),
    }
}

fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

fn unhex(text: &str) -> Bytes {
    let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(pair).collect()
}
