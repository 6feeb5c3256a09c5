//! What stores tell each other about a region when replicas come and go.

use std::sync::Arc;

use multiraft_raft::{LogIndex, RegionEpoch, RegionId, ReplicaId, Term};

use super::{
    WireError, WireFault,
    descriptor::{encode_descriptor, read_descriptor},
    frame::{Context, kind},
    reader::Reader,
    varint::{put_bytes, put_delta, put_varint},
};
use crate::{RegionMessage, RegionStep};

const ASK: u8 = 0;
const TELL: u8 = 1;
const TELL_MERGED: u8 = 2;
const ASK_FROZEN: u8 = 3;
const IS_FROZEN: u8 = 4;
const ASK_DIGEST: u8 = 5;
const DIGEST: u8 = 6;
const NEED_SNAPSHOT: u8 = 7;
const NOT_LED: u8 = 8;
const NOT_PROMISED: u8 = 9;
const BEGUN_ANEW: u8 = 10;

impl Context {
    pub(super) fn put_region(&mut self, out: &mut Vec<u8>, message: &RegionMessage) {
        out.push(kind::REGION);
        put_delta(out, self.region, message.region.0);
        self.region = message.region.0;
        match &message.step {
            RegionStep::Ask { replica, epoch } => {
                out.push(ASK);
                put_varint(out, replica.0);
                put_varint(out, epoch.conf_version);
                put_varint(out, epoch.version);
            }
            RegionStep::Tell { descriptor, merged, committed: (index, term) } => {
                out.push(if *merged { TELL_MERGED } else { TELL });
                put_varint(out, index.0);
                put_varint(out, term.0);
                encode_descriptor(descriptor, out);
            }
            RegionStep::AskFrozen { index } => {
                out.push(ASK_FROZEN);
                put_varint(out, index.0);
            }
            RegionStep::IsFrozen { replica, index } => {
                out.push(IS_FROZEN);
                put_varint(out, replica.0);
                put_varint(out, index.0);
            }
            RegionStep::AskDigest { index } => {
                out.push(ASK_DIGEST);
                put_varint(out, index.0);
            }
            RegionStep::Digest { replica, index, answer } => {
                out.push(DIGEST);
                put_varint(out, replica.0);
                put_varint(out, index.0);
                put_bytes(out, answer);
            }
            RegionStep::NeedSnapshot { replica, index } => {
                out.push(NEED_SNAPSHOT);
                put_varint(out, replica.0);
                put_varint(out, index.0);
            }
            RegionStep::BegunAnew { above } => {
                out.push(BEGUN_ANEW);
                put_varint(out, above.0);
            }
            RegionStep::NotLed { replica, to, term } | RegionStep::NotPromised { replica, to, term } => {
                out.push(if matches!(message.step, RegionStep::NotLed { .. }) { NOT_LED } else { NOT_PROMISED });
                put_varint(out, replica.0);
                put_varint(out, to.0);
                put_varint(out, term.0);
            }
        }
    }

    pub(super) fn read_region(&mut self, reader: &mut Reader<'_>) -> Result<RegionMessage, WireError> {
        self.region = reader.delta(self.region)?;
        let step = match reader.byte("a region step")? {
            ASK => RegionStep::Ask {
                replica: ReplicaId(reader.varint()?),
                epoch: RegionEpoch { conf_version: reader.varint()?, version: reader.varint()? },
            },
            step @ (TELL | TELL_MERGED) => {
                let committed = (LogIndex(reader.varint()?), Term(reader.varint()?));
                let descriptor = Arc::new(read_descriptor(reader)?);
                RegionStep::Tell { descriptor, merged: step == TELL_MERGED, committed }
            }
            ASK_FROZEN => RegionStep::AskFrozen { index: LogIndex(reader.varint()?) },
            IS_FROZEN => {
                RegionStep::IsFrozen { replica: ReplicaId(reader.varint()?), index: LogIndex(reader.varint()?) }
            }
            ASK_DIGEST => RegionStep::AskDigest { index: LogIndex(reader.varint()?) },
            DIGEST => RegionStep::Digest {
                replica: ReplicaId(reader.varint()?),
                index: LogIndex(reader.varint()?),
                answer: reader.payload("a digest")?,
            },
            NEED_SNAPSHOT => {
                RegionStep::NeedSnapshot { replica: ReplicaId(reader.varint()?), index: LogIndex(reader.varint()?) }
            }
            BEGUN_ANEW => RegionStep::BegunAnew { above: ReplicaId(reader.varint()?) },
            step @ (NOT_LED | NOT_PROMISED) => {
                let (replica, to) = (ReplicaId(reader.varint()?), ReplicaId(reader.varint()?));
                let term = Term(reader.varint()?);
                if step == NOT_LED {
                    RegionStep::NotLed { replica, to, term }
                } else {
                    RegionStep::NotPromised { replica, to, term }
                }
            }
            value => return reader.fail(WireFault::Unknown { what: "region step", value }),
        };
        Ok(RegionMessage { region: RegionId(self.region), step })
    }
}
