------------------------------ MODULE arbiter ------------------------------
(* How a child region comes to be on ONE store, as docs/regions.md has it: the parent here splits (or is removed, or     *)
(* comes back), while messages, vote requests, appends and snapshots for the child come from elsewhere; the child's      *)
(* replica is removed or absorbed, and another with a higher id takes its place; the store crashes between any two        *)
(* durable writes.                                                                                                       *)
(*                                                                                                                       *)
(* The other stores are not modelled: whatever they could send may come at any time, in any order, again and again.       *)
(* Replica id 1 is the one that the split makes; the others are those that membership changes put here later.             *)
(* The log is durable at once (a vote or an acknowledgement leaves only after its flush); the state is durable when        *)
(* `dur` has it. `Bug` plants a mistake, see README.md.                                                                   *)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS Ids,        \* 1..n
          Terms,      \* 1..n
          Candidates, \* model values
          MaxIndex,   \* of the child's log
          Bug
VARIABLES vol, dur,  \* the state in memory and on disk: p the parent, c the child's state, tomb the child's tombstone
          log,       \* the child's records in the shared log: hard state, entries lo+1..hi
          mem,       \* the child's replica at work: its id (0: none), and whether it is initialised
          \* What was told to the world, and what is on disk for good:
          votes, acked, high, gone
vars == <<vol, dur, log, mem, votes, acked, high, gone>>
Symmetry == Permutations(Candidates)

Max(a, b) == IF a > b THEN a ELSE b
Nobody == [id |-> 0, init |-> FALSE]
NoState == [id |-> 0, n |-> 0]
NoTomb == [id |-> 0, merged |-> FALSE, cleaned |-> FALSE]
NoHard == [by |-> 0, term |-> 0, vote |-> 0]
NoLog == [hard |-> NoHard, lo |-> 0, hi |-> 0]

Init ==
    /\ vol = [p |-> "whole", c |-> NoState, tomb |-> NoTomb]
    /\ dur = vol
    /\ log = NoLog /\ mem = Nobody
    /\ votes = {} /\ gone = {}
    /\ acked = [i \in Ids |-> 0] /\ high = [i \in Ids |-> 0]

\* The state v becomes durable.
Durable(v) ==
    /\ dur' = v
    /\ gone' = gone \cup {i \in Ids : i <= v.tomb.id \/ v.tomb.merged}
    /\ high' = [i \in Ids |-> IF v.c.id = i THEN Max(high[i], v.c.n) ELSE high[i]]
Same == UNCHANGED <<dur, gone, high>>

TombBars(id) == Bug # "tombstone_ignored" /\ (vol.tomb.id >= id \/ vol.tomb.merged)
\* "Cleaned" must be durable before the next replica may write anything.
Clean == vol.tomb = dur.tomb /\ (vol.tomb.id = 0 \/ vol.tomb.cleaned)

------------------------------------------------------------------------------
(* C1: a message creates an uninitialised replica. *)
Message(id) ==
    /\ mem.id = 0 /\ ~TombBars(id)
    /\ Clean \/ Bug = "leftover_taken" \/ Bug = "tombstone_ignored"
    /\ mem' = [id |-> id, init |-> FALSE]
    /\ UNCHANGED <<vol, log, votes, acked>> /\ Same

(* One vote a term: in the log before it leaves. *)
Vote(t, cand) ==
    /\ mem.id # 0
    /\ log.hard.term < t \/ (log.hard.term = t /\ log.hard.vote = cand)
    /\ log' = [log EXCEPT !.hard = [by |-> mem.id, term |-> t, vote |-> cand]]
    /\ votes' = votes \cup {<<mem.id, t, cand>>}
    /\ UNCHANGED <<vol, mem, acked>> /\ Same

(* C4: the parent here splits. *)
ApplySplit ==
    LET ahead == vol.c.id # 0 /\ Bug # "split_overwrites"
        drop == TombBars(1) \/ mem.id > 1 \/ ahead
        v == [vol EXCEPT !.p = "split", !.c = IF drop THEN @ ELSE [id |-> 1, n |-> 1]]
    IN
    /\ vol.p = "whole"
    /\ vol' = v
    /\ IF Bug = "heard_before_durable" THEN Same ELSE Durable(v)
    /\ mem' = IF drop THEN mem ELSE [id |-> 1, init |-> TRUE]
    /\ UNCHANGED <<log, votes, acked>>

(* The parent is removed from this store, and a later replica of it comes back by a snapshot from before or after the split. *)
ParentGoes ==
    /\ vol.p # "gone"
    /\ vol' = [vol EXCEPT !.p = "gone"]
    /\ UNCHANGED <<log, mem, votes, acked>> /\ Same
ParentComes(p) ==
    /\ vol.p = "gone" /\ dur.p = "gone"
    /\ p = "whole" => vol.c.id = 0
    /\ vol' = [vol EXCEPT !.p = p]
    /\ UNCHANGED <<log, mem, votes, acked>> /\ Same

(* C3: a snapshot of the child at index j. It is durable before it is acknowledged; the log is reset afterwards. *)
Snapshot(j) ==
    LET v == [vol EXCEPT !.c = [id |-> mem.id, n |-> j]] IN
    /\ mem.id # 0 /\ j > vol.c.n /\ j > 1
    /\ vol.p # "whole" \/ Bug = "snapshot_does_not_wait" \/ Bug = "split_overwrites"
    /\ vol' = v
    /\ IF Bug = "snapshot_acknowledged_early" THEN Same ELSE Durable(v)
    /\ mem' = [mem EXCEPT !.init = TRUE]
    /\ acked' = [acked EXCEPT ![mem.id] = Max(@, j)]
    /\ UNCHANGED <<log, votes>>
ResetLog ==
    /\ mem.init /\ log.hi < vol.c.n
    /\ log' = [log EXCEPT !.lo = vol.c.n, !.hi = vol.c.n]
    /\ UNCHANGED <<vol, mem, votes, acked>> /\ Same

(* The child lives. *)
Append ==
    /\ mem.init /\ log.hi >= vol.c.n /\ log.hi < MaxIndex
    /\ log' = [log EXCEPT !.hi = @ + 1]
    /\ acked' = [acked EXCEPT ![mem.id] = Max(@, log.hi + 1)]
    /\ UNCHANGED <<vol, mem, votes>> /\ Same
ApplyEntry ==
    /\ mem.init /\ vol.c.n < log.hi
    /\ vol' = [vol EXCEPT !.c.n = @ + 1]
    /\ UNCHANGED <<log, mem, votes, acked>> /\ Same
CutLog ==
    /\ mem.init /\ log.lo < dur.c.n /\ dur.c.n <= log.hi
    /\ log' = [log EXCEPT !.lo = dur.c.n]
    /\ UNCHANGED <<vol, mem, votes, acked>> /\ Same

(* G1, G2: the child's replica goes; one write removes its state and leaves the tombstone. *)
Destroy(merged) ==
    /\ mem.id # 0
    /\ vol' = [vol EXCEPT !.c = NoState, !.tomb = [id |-> mem.id, merged |-> merged, cleaned |-> FALSE]]
    /\ mem' = Nobody
    /\ UNCHANGED <<log, votes, acked>> /\ Same
(* When that is durable its records go; when they are gone the tombstone says so. *)
CleanUp ==
    /\ vol.tomb.id # 0 /\ ~vol.tomb.cleaned
    /\ Bug = "log_removed_first" \/ dur.tomb = vol.tomb
    /\ log # NoLog /\ log' = NoLog
    /\ UNCHANGED <<vol, mem, votes, acked>> /\ Same
NoteClean ==
    /\ vol.tomb.id # 0 /\ ~vol.tomb.cleaned /\ dur.tomb = vol.tomb
    /\ log = NoLog
    /\ vol' = [vol EXCEPT !.tomb.cleaned = TRUE]
    /\ UNCHANGED <<log, mem, votes, acked>> /\ Same

Flush ==
    /\ dur # vol /\ Durable(vol)
    /\ UNCHANGED <<vol, log, mem, votes, acked>>

(* C5: the store crashes and starts. The hard state names the replica that it is of, and makes it come again. *)
Restart ==
    LET leftover == dur.tomb.id # 0 /\ dur.c.id = 0 /\ (~dur.tomb.cleaned \/ Bug = "later_vote_removed")
        left == IF Bug = "later_vote_removed" /\ leftover THEN NoLog ELSE log
    IN
    /\ vol' = dur /\ log' = left
    /\ mem' = CASE dur.c.id # 0 -> [id |-> dur.c.id, init |-> TRUE]
                [] dur.c.id = 0 /\ ~leftover /\ left.hard.by # 0 /\ Bug # "nameless_hard_state"
                     -> [id |-> left.hard.by, init |-> FALSE]
                [] OTHER -> Nobody
    /\ UNCHANGED <<votes, acked>> /\ Same

Next ==
    \/ \E id \in Ids : Message(id)
    \/ \E t \in Terms, c \in Candidates : Vote(t, c)
    \/ ApplySplit \/ ParentGoes \/ \E p \in {"whole", "split"} : ParentComes(p)
    \/ \E j \in 2..MaxIndex : Snapshot(j)
    \/ ResetLog \/ Append \/ ApplyEntry \/ CutLog
    \/ \E m \in BOOLEAN : Destroy(m)
    \/ CleanUp \/ NoteClean \/ Flush \/ Restart
Spec == Init /\ [][Next]_vars

------------------------------------------------------------------------------
(* What must hold *)

OneVoteATerm == \A a, b \in votes : a[1] = b[1] /\ a[2] = b[2] => a[3] = b[3]

\* Every replica works with the hard state that it wrote itself.
HardStateIsItsOwn == mem.id # 0 /\ log.hard.by # 0 => log.hard.by = mem.id

\* What was durable of a child is never replaced by less.
NeverBack == \A i \in Ids : vol.c.id = i => vol.c.n >= high[i]

NoOverlap == ~(vol.p = "whole" /\ vol.c.id # 0)

NoDeadReplicaActs == mem.id = 0 \/ mem.id \notin gone

\* What a replica acknowledged it has after a crash, in its state and the entries that follow it without a gap.
NothingAcknowledgedIsLost ==
    \A i \in Ids \ gone : acked[i] > 0 =>
        dur.c.id = i /\ dur.c.n >= log.lo /\ Max(dur.c.n, log.hi) >= acked[i]

\* C5: entries without a state would be taken for damage.
NoEntriesWithoutState == log.hi > 0 => dur.c.id # 0 \/ (dur.tomb.id # 0 /\ ~dur.tomb.cleaned)
=============================================================================
