------------------------------ MODULE liveness ------------------------------
(* Support between stores, fortification, sleep, reads and leases, as docs/liveness.md has them: one group with a voter   *)
(* on every store. Stores withdraw, ask anew, restart; terms and votes are durable, promises and support are not.          *)
(*                                                                                                                        *)
(* Messages are not taken from a queue. A request may arrive at any time after it could be sent, also when its sender has  *)
(* moved on, again, or never; an answer is noted when it is made and used at any time later, or never.                     *)
(*                                                                                                                        *)
(* Left out: logs (any voter may vote for any candidate as far as its log goes, which allows more), pre-votes, changes of  *)
(* the membership. Time is there only as far as leases need it: `tok[a][b]` is there while the lease that a counts from    *)
(* b's answer lasts, and what the clocks promise is a condition of two steps, marked "clock".                              *)
(*                                                                                                                        *)
(* `Bug` plants a mistake. "none" is the protocol; README.md lists the others and what finds them.                         *)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS Stores,      \* model values
          MaxTerm,     \* one of the stores leads term 1 at the start
          MaxEpoch,    \* of each ordered pair of stores
          MaxRestarts, \* of all stores together
          Candidates,  \* the stores that may lead; the others only vote, as witnesses do
          Parts,       \* what takes part: "reads", "leases", "transfer", "epochs"
          Sleepers,    \* the stores whose replica goes to sleep; the others are fortified in one step
          Bug
VARIABLES term, vote,  \* durable
          role,        \* "follower", "candidate", "leader"
          votes,       \* votes[c]: who voted for c in its campaign
          byWish,      \* byWish[c]: c campaigns because the leader of the term before asked it to
          asked,       \* asked[a]: a has sent TimeoutNow in its term
          offer,       \* that message, if there was one
          led,         \* led[t]: who was elected in term t
          inc, wait,   \* the incarnation; the start-up wait is not over
          epoch,       \* epoch[a][b]: at which a asks b for support; the incarnation of a is inside
          given,       \* given[b][a]: the epoch at which b supports a, or supported it before it withdrew
          prom,        \* prom[b]: the leader's term and the epoch under which b's replica was fortified
          fort,        \* the answers <<b, term, epoch, incarnation of b>> that leaders have or may get
          step, saw,   \* where the worker of b is between reading the support, registering, and reading it again
          reg,         \* reg[b]: under which store b's replica is registered in the index of wake-ups
          pend,        \* pend[b]: whose entries of that index are still to be taken after a withdrawal
          due, asleep,
          read,        \* a bulk read: who serves it, and the answers to its round
          tok
raft == <<term, vote, role, votes, byWish, asked, offer, led>>
pair == <<inc, wait, epoch, given>>
slp == <<step, saw, reg, pend, due, asleep>>
vars == <<raft, pair, prom, fort, slp, read, tok>>
Symmetry == Permutations(Candidates \ Sleepers) \cup Permutations(Stores \ (Candidates \cup Sleepers))

Nobody == "nobody"
Terms == 1..MaxTerm
Has(part) == part \in Parts
Quorum(q) == 2 * Cardinality(q) > Cardinality(Stores)
NoProm == [t |-> 0, e |-> 0]
NoSupport == [e |-> 0, ok |-> FALSE]
NoRead == [by |-> Nobody, ans |-> {}]
NoTok == <<0, 0>>
Taken == [to |-> "taken", t |-> 0]
Idle(s) == step[s] = "idle"
Leads(a) == role[a] = "leader"

\* Of the promise of b: to whom, and whether it binds.
To(b) == led[prom[b].t]
Binds(b) == prom[b].t # 0 /\ given[b][To(b)] = [e |-> prom[b].e, ok |-> TRUE]

Init ==
    \E a \in Candidates :
        /\ term = [s \in Stores |-> 1] /\ vote = [s \in Stores |-> Nobody]
        /\ role = [s \in Stores |-> IF s = a THEN "leader" ELSE "follower"]
        /\ votes = [s \in Stores |-> {}] /\ byWish = [s \in Stores |-> FALSE]
        /\ asked = [s \in Stores |-> FALSE] /\ offer = [to |-> Nobody, t |-> 0]
        /\ led = [t \in 0..MaxTerm |-> IF t = 1 THEN a ELSE Nobody]
        /\ inc = [s \in Stores |-> 1] /\ wait = [s \in Stores |-> FALSE]
        /\ epoch = [x \in Stores |-> [y \in Stores |-> 1]]
        /\ given = [x \in Stores |-> [y \in Stores |-> NoSupport]]
        /\ prom = [s \in Stores |-> NoProm] /\ fort = {}
        /\ step = [s \in Stores |-> "idle"] /\ saw = [s \in Stores |-> NoProm]
        /\ reg = [s \in Stores |-> Nobody] /\ pend = [s \in Stores |-> {}]
        /\ due = [s \in Stores |-> FALSE] /\ asleep = [s \in Stores |-> FALSE]
        /\ read = NoRead /\ tok = [x \in Stores |-> [y \in Stores |-> NoTok]]

\* Any message wakes a replica.
Wakes(s) == asleep' = [asleep EXCEPT ![s] = FALSE]
\* s leads no more: its records die, and its reads fail.
Retires(s) ==
    /\ fort' = IF Leads(s) THEN {f \in fort : f[2] # term[s]} ELSE fort
    /\ asked' = [asked EXCEPT ![s] = FALSE]
    /\ read' = IF read.by = s THEN NoRead ELSE read
Becomes(s, t, r) ==
    /\ term' = [term EXCEPT ![s] = t]
    /\ role' = [role EXCEPT ![s] = r]
    /\ byWish' = [byWish EXCEPT ![s] = FALSE]

------------------------------------------------------------------------------
(* Raft: elections *)

BecomesCandidate(c, t, wish) ==
    /\ term' = [term EXCEPT ![c] = t]
    /\ role' = [role EXCEPT ![c] = "candidate"]
    /\ byWish' = [byWish EXCEPT ![c] = wish]
    /\ Retires(c) /\ Wakes(c)
    /\ vote' = [vote EXCEPT ![c] = c] /\ votes' = [votes EXCEPT ![c] = {c}]
    /\ prom' = [prom EXCEPT ![c] = NoProm]
    /\ UNCHANGED <<led, pair, step, saw, reg, pend, due, tok>>

Campaign(c) ==
    /\ c \in Candidates /\ Idle(c) /\ ~Leads(c) /\ ~wait[c] /\ ~asleep[c] /\ ~Binds(c) /\ term[c] < MaxTerm
    /\ BecomesCandidate(c, term[c] + 1, FALSE) /\ UNCHANGED offer

Ask(a, b) ==
    /\ Has("transfer") /\ Leads(a) /\ b \in Candidates \ {a} /\ offer.to = Nobody
    /\ asked' = [asked EXCEPT ![a] = TRUE] /\ offer' = [to |-> b, t |-> term[a]]
    /\ UNCHANGED <<term, vote, role, votes, byWish, led, pair, prom, fort, slp, read, tok>>
TakeOver(b) ==
    /\ Idle(b) /\ offer.to = b /\ ~Leads(b) /\ ~wait[b] /\ term[b] <= offer.t /\ offer.t < MaxTerm
    /\ BecomesCandidate(b, offer.t + 1, TRUE) /\ offer' = Taken

\* A planted mistake: the worker looks at a clock, and votes before the support is withdrawn.
Free(v) == IF Binds(v) THEN Bug = "vote_before_withdrawal" /\ tok[To(v)][v] = NoTok ELSE TRUE
MayVote(v, c) ==
    /\ ~wait[v] /\ v \notin votes[c]
    /\ term[c] > term[v] \/ (term[c] = term[v] /\ vote[v] = Nobody)
    /\ Free(v) \/ To(v) = c \/ byWish[c] \/ (Bug = "own_term_unchecked" /\ term[c] = term[v])
Vote(v, c) ==
    LET t == term[c] IN
    /\ v # c /\ Idle(v) /\ role[c] = "candidate" /\ led[t] = Nobody /\ (MayVote(v, c) = TRUE)
    /\ Becomes(v, t, "follower") /\ Retires(v) /\ Wakes(v)
    /\ vote' = [vote EXCEPT ![v] = c]
    /\ votes' = [votes EXCEPT ![c] = @ \cup {v}, ![v] = {}]
    /\ prom' = [prom EXCEPT ![v] = IF Binds(v) /\ To(v) = c THEN @ ELSE NoProm]
    /\ UNCHANGED <<offer, led, pair, step, saw, reg, pend, due, tok>>
Win(c) ==
    /\ role[c] = "candidate" /\ Quorum(votes[c])
    /\ role' = [role EXCEPT ![c] = "leader"]
    \* Votes of this term decide nothing any more: what they would still do to the voter, Follow does.
    /\ votes' = [x \in Stores |-> IF term[x] = term[c] THEN {} ELSE votes[x]]
    /\ vote' = [x \in Stores |-> IF term[x] = term[c] THEN Nobody ELSE vote[x]]
    /\ byWish' = [byWish EXCEPT ![c] = FALSE] /\ led' = [led EXCEPT ![term[c]] = c]
    /\ UNCHANGED <<term, asked, offer, pair, prom, fort, slp, read, tok>>

\* s hears of a higher term, from anybody but its leader. Its promise stands.
HigherTerm(s, t) ==
    /\ Idle(s) /\ t > term[s] /\ \E x \in Stores : term[x] = t
    /\ Becomes(s, t, "follower") /\ Retires(s) /\ Wakes(s)
    /\ vote' = [vote EXCEPT ![s] = Nobody] /\ votes' = [votes EXCEPT ![s] = {}]
    /\ prom' = IF Bug = "term_ends_promise" THEN [prom EXCEPT ![s] = NoProm] ELSE prom
    /\ UNCHANGED <<offer, led, pair, step, saw, reg, pend, due, tok>>

\* What every message of a leader does, of this term or of a higher one.
Hears(b, t) ==
    /\ Becomes(b, t, "follower") /\ Retires(b)
    /\ vote' = IF t > term[b] THEN [vote EXCEPT ![b] = Nobody] ELSE vote
    /\ votes' = [votes EXCEPT ![b] = {}]
Follow(b, t) ==
    /\ Idle(b) /\ led[t] \notin {Nobody, b}
    /\ (t > term[b] \/ (t = term[b] /\ (role[b] = "candidate" \/ prom[b].t \in 1..(t - 1)))) = TRUE
    /\ Hears(b, t) /\ Wakes(b)
    /\ prom' = IF prom[b].t < t THEN [prom EXCEPT ![b] = NoProm] ELSE prom
    /\ UNCHANGED <<offer, led, pair, step, saw, reg, pend, due, tok>>

(* The leader's release, or "no" to the question whether it leads that term. *)
Release(b) ==
    /\ Idle(b) /\ prom[b].t # 0 /\ ~(Leads(To(b)) /\ term[To(b)] = prom[b].t)
    /\ prom' = [prom EXCEPT ![b] = NoProm] /\ Wakes(b)
    /\ UNCHANGED <<raft, pair, fort, step, saw, reg, pend, due, read, tok>>

------------------------------------------------------------------------------
(* Support *)

\* A promise that binds no more is none. A sleeper keeps it, for NoLostWakeUp to look at.
Withdrawn(b, a) == IF b \notin Sleepers /\ Binds(b) /\ To(b) = a THEN [prom EXCEPT ![b] = NoProm] ELSE prom
\* A heartbeat with an epoch that b has not seen from a: the lower one is withdrawn first, wake-ups included.
Support(b, a, e) ==
    /\ a # b /\ Leads(a) /\ e \in (given[b][a].e + 1)..epoch[a][b]
    /\ given' = [given EXCEPT ![b][a] = [e |-> e, ok |-> TRUE]]
    /\ pend' = IF b \in Sleepers /\ given[b][a].ok /\ Bug # "higher_epoch_wakes_nobody" THEN [pend EXCEPT ![b] = @ \cup {a}] ELSE pend
    /\ prom' = Withdrawn(b, a)
    /\ UNCHANGED <<raft, inc, wait, epoch, fort, step, saw, reg, due, asleep, read, tok>>
\* The duration has run out. Clock: not before the lease that a counts from the answer.
Withdraw(b, a) ==
    /\ given[b][a].ok
    /\ (tok[a][b] # <<given[b][a].e, inc[b]>> \/ Bug = "withdrawn_early") = TRUE
    /\ given' = [given EXCEPT ![b][a].ok = FALSE]
    /\ pend' = IF b \in Sleepers THEN [pend EXCEPT ![b] = @ \cup {a}] ELSE pend
    /\ prom' = Withdrawn(b, a)
    /\ UNCHANGED <<raft, inc, wait, epoch, fort, step, saw, reg, due, asleep, read, tok>>
\* a hears that its epoch was withdrawn, or that b is another incarnation. With "epochs" it gives up one that is supported, too.
NewEpoch(a, b) ==
    /\ a # b /\ Leads(a) /\ epoch[a][b] < MaxEpoch
    /\ IF given[b][a] = [e |-> epoch[a][b], ok |-> TRUE] THEN Has("epochs")
       ELSE given[b][a].e = epoch[a][b] \/ inc[b] > 1
    /\ epoch' = [epoch EXCEPT ![a][b] = @ + 1]
    /\ fort' = {f \in fort : ~(f[1] = b /\ f[2] = term[a])}
    /\ tok' = [tok EXCEPT ![a][b] = NoTok]
    /\ UNCHANGED <<raft, inc, wait, given, prom, slp, read>>

RECURSIVE Sum(_)
Sum(q) == IF q = {} THEN 0 ELSE LET x == CHOOSE x \in q : TRUE IN inc[x] - 1 + Sum(q \ {x})
Restarts == Sum(Stores)
Restart(s) ==
    /\ Restarts < MaxRestarts
    \* Its epochs go up with its incarnation. (Those of who never leads are not used.)
    /\ s \in Candidates => \A x \in Stores : epoch[s][x] < MaxEpoch
    /\ inc' = [inc EXCEPT ![s] = @ + 1]
    /\ wait' = [wait EXCEPT ![s] = Bug # "no_wait"]
    /\ epoch' = IF s \in Candidates THEN [epoch EXCEPT ![s] = [x \in Stores |-> @[x] + 1]] ELSE epoch
    /\ given' = [given EXCEPT ![s] = [x \in Stores |-> NoSupport]]
    /\ Becomes(s, term[s], "follower") /\ Retires(s) /\ Wakes(s)
    /\ votes' = [votes EXCEPT ![s] = {}]
    /\ prom' = [prom EXCEPT ![s] = NoProm]
    /\ step' = [step EXCEPT ![s] = "idle"] /\ saw' = [saw EXCEPT ![s] = NoProm]
    /\ reg' = [reg EXCEPT ![s] = Nobody] /\ pend' = [pend EXCEPT ![s] = {}] /\ due' = [due EXCEPT ![s] = FALSE]
    /\ tok' = [tok EXCEPT ![s] = [x \in Stores |-> NoTok]]
    /\ UNCHANGED <<vote, offer, led>>
\* Clock: by then no lease lasts that counts from an answer of an earlier incarnation.
EndWait(s) ==
    /\ wait[s] /\ \A a \in Stores : tok[a][s] = NoTok \/ tok[a][s][2] = inc[s]
    /\ wait' = [wait EXCEPT ![s] = FALSE]
    /\ UNCHANGED <<raft, inc, epoch, given, prom, fort, slp, read, tok>>

------------------------------------------------------------------------------
(* Fortification, and sleep *)

\* Only the answer to a leader that still leads can be of any use.
Answers(b, t, e) ==
    LET a == led[t] IN
    IF Leads(a) /\ term[a] = t /\ epoch[a][b] = e THEN fort \cup {<<b, t, e, inc[b]>>} ELSE fort
MayFortify(b, t) ==
    LET a == led[t] IN
    /\ Idle(b) /\ a \notin {Nobody, b} /\ given[b][a].ok
    /\ t >= (IF Bug = "fortify_lower_term" THEN 1 ELSE term[b])
FortifyAtOnce(b, t) ==
    LET e == given[b][led[t]].e IN
    /\ b \notin Sleepers /\ MayFortify(b, t)
    /\ <<prom[b], Answers(b, t, e)>> # <<[t |-> t, e |-> e], fort>>
    /\ Becomes(b, IF t > term[b] THEN t ELSE term[b], "follower")
    /\ asked' = [asked EXCEPT ![b] = FALSE]
    /\ read' = IF read.by = b THEN NoRead ELSE read
    /\ fort' = Answers(b, t, e) \ (IF Leads(b) THEN {f \in fort : f[2] = term[b]} ELSE {})
    /\ vote' = IF t > term[b] THEN [vote EXCEPT ![b] = Nobody] ELSE vote
    /\ votes' = [votes EXCEPT ![b] = {}]
    /\ prom' = [prom EXCEPT ![b] = [t |-> t, e |-> e]]
    /\ UNCHANGED <<offer, led, pair, slp, tok>>

\* The same in three steps of the worker, between which the store's support may change; the last one also goes to sleep.
ReadSupport(b, t) ==
    LET e == given[b][led[t]].e IN
    /\ b \in Sleepers /\ MayFortify(b, t)
    /\ ~asleep[b]
    /\ Hears(b, t) /\ Wakes(b)
    /\ prom' = IF prom[b].t < t THEN [prom EXCEPT ![b] = NoProm] ELSE prom
    /\ saw' = [saw EXCEPT ![b] = [t |-> t, e |-> e]]
    /\ step' = [step EXCEPT ![b] = IF Bug = "register_last" THEN "registered" ELSE "read"]
    /\ UNCHANGED <<offer, led, pair, reg, pend, due, tok>>
Register(b) ==
    /\ step[b] = "read"
    /\ step' = [step EXCEPT ![b] = "registered"] /\ reg' = [reg EXCEPT ![b] = led[saw[b].t]]
    /\ UNCHANGED <<raft, pair, prom, fort, saw, pend, due, asleep, read, tok>>
Promises(b) ==
    /\ prom' = [prom EXCEPT ![b] = saw[b]] /\ fort' = Answers(b, saw[b].t, saw[b].e)
    /\ asleep' = [asleep EXCEPT ![b] = TRUE]
ReadAgain(b) ==
    LET ok == given[b][led[saw[b].t]] = [e |-> saw[b].e, ok |-> TRUE] IN
    /\ step[b] = "registered"
    /\ saw' = IF ok /\ Bug = "register_last" THEN saw ELSE [saw EXCEPT ![b] = NoProm]
    /\ step' = [step EXCEPT ![b] = IF ok /\ Bug = "register_last" THEN "last" ELSE "idle"]
    /\ IF ok /\ Bug # "register_last" THEN Promises(b) ELSE UNCHANGED <<prom, fort, asleep>>
    /\ reg' = IF ok THEN reg ELSE [reg EXCEPT ![b] = Nobody]
    /\ UNCHANGED <<raft, pair, pend, due, read, tok>>
RegisterLast(b) ==
    /\ step[b] = "last"
    /\ step' = [step EXCEPT ![b] = "idle"] /\ saw' = [saw EXCEPT ![b] = NoProm]
    /\ reg' = [reg EXCEPT ![b] = led[saw[b].t]] /\ Promises(b)
    /\ UNCHANGED <<raft, pair, pend, due, read, tok>>

\* After a withdrawal the index is taken, and what was in it woken in batches.
TakeIndex(b, a) ==
    /\ a \in pend[b]
    /\ pend' = [pend EXCEPT ![b] = @ \ {a}]
    /\ reg' = IF reg[b] = a THEN [reg EXCEPT ![b] = Nobody] ELSE reg
    /\ due' = IF reg[b] = a THEN [due EXCEPT ![b] = TRUE] ELSE due
    /\ UNCHANGED <<raft, pair, prom, fort, step, saw, asleep, read, tok>>
Wake(b) ==
    /\ Idle(b) /\ due[b]
    /\ due' = [due EXCEPT ![b] = FALSE] /\ Wakes(b)
    /\ UNCHANGED <<raft, pair, prom, fort, step, saw, reg, pend, read, tok>>

------------------------------------------------------------------------------
(* Reads. Only those are of interest that come in when a leader of a higher term has been elected: no others can miss what  *)
(* it has committed.                                                                                                      *)

Deposed(a) == \E t \in Terms : t > term[a] /\ led[t] # Nobody
Read(a) ==
    /\ Has("reads") /\ Leads(a) /\ Deposed(a) /\ read # [by |-> a, ans |-> {}]
    /\ read' = [by |-> a, ans |-> {}]
    /\ UNCHANGED <<raft, pair, prom, fort, slp, tok>>
\* b answers the round of stores, whatever becomes of its replica.
AnswerRound(b) ==
    LET a == read.by
        e == given[b][a].e
    IN
    /\ a \notin {Nobody, b}
    /\ IF Bug = "confirm_after_withdrawal" THEN e # 0 ELSE given[b][a].ok
    /\ e = epoch[a][b]
    /\ read' = [read EXCEPT !.ans = @ \cup {<<b, e, inc[b]>>}]
    /\ UNCHANGED <<raft, pair, prom, fort, slp, tok>>
Confirmed(a, b) ==
    \E x \in read.ans : /\ x[1] = b /\ x[2] = epoch[a][b]
                        /\ \E f \in fort : /\ f[1] = b /\ f[2] = term[a] /\ f[3] = x[2]
                                           /\ f[4] = x[3] \/ Bug = "incarnation_ignored"
MayUse(a) == Leads(a) /\ (~asked[a] \/ Bug = "used_after_timeout_now")
Serves(a) == read.by = a /\ MayUse(a) /\ Quorum({a} \cup {b \in Stores \ {a} : Confirmed(a, b)})

\* b answers a heartbeat; a lease counts from it, until it ends.
Confirm(b, a) ==
    /\ Has("leases") /\ Leads(a) /\ given[b][a].ok /\ given[b][a].e = epoch[a][b]
    /\ tok' = [tok EXCEPT ![a][b] = <<given[b][a].e, inc[b]>>]
    /\ tok' # tok
    /\ UNCHANGED <<raft, pair, prom, fort, slp, read>>
Expire(a, b) ==
    /\ tok[a][b] # NoTok
    /\ tok' = [tok EXCEPT ![a][b] = NoTok]
    /\ UNCHANGED <<raft, pair, prom, fort, slp, read>>
HasLease(a) ==
    MayUse(a) /\ Quorum({a} \cup {b \in Stores \ {a} : <<b, term[a], tok[a][b][1], tok[a][b][2]>> \in fort
                                                       /\ tok[a][b][1] = epoch[a][b]})

Next ==
    \/ \E s \in Stores : \/ Campaign(s) \/ TakeOver(s) \/ Win(s) \/ Release(s) \/ Restart(s) \/ EndWait(s)
                         \/ Register(s) \/ ReadAgain(s) \/ RegisterLast(s) \/ Wake(s) \/ Read(s) \/ AnswerRound(s)
    \/ \E s \in Stores, t \in Terms : HigherTerm(s, t) \/ Follow(s, t) \/ FortifyAtOnce(s, t) \/ ReadSupport(s, t)
    \/ \E x, y \in Stores : Ask(x, y) \/ Vote(x, y) \/ Withdraw(x, y) \/ NewEpoch(x, y) \/ TakeIndex(x, y)
                            \/ Confirm(x, y) \/ Expire(x, y)
    \/ \E x, y \in Stores, e \in 1..MaxEpoch : Support(x, y, e)
Spec == Init /\ [][Next]_vars

------------------------------------------------------------------------------
(* What must hold *)

OneLeaderATerm == \A a, b \in Stores : Leads(a) /\ Leads(b) /\ term[a] = term[b] => a = b

\* What a leader has recorded, and what is still so at the follower's store.
Holds(a) ==
    Leads(a) /\ ~asked[a] /\
    Quorum({a} \cup {b \in Stores \ {a} : <<b, term[a], epoch[a][b], inc[b]>> \in fort
                                          /\ given[b][a] = [e |-> epoch[a][b], ok |-> TRUE]})
SupportIsNotShared == \A a, b \in Stores : Holds(a) /\ Holds(b) => a = b
\* More: while a leader holds it, nobody was elected after it.
NobodyIsElectedBeside == \A a \in Stores : Holds(a) => ~Deposed(a)

ReadsAreFresh == \A a \in Stores : ~Serves(a)
LeasesAreDisjoint == \A a \in Stores : HasLease(a) => ~Deposed(a)

NoLostWakeUp ==
    \A b \in Stores : asleep[b] =>
        /\ prom[b].t = term[b]
        /\ \/ Binds(b) /\ reg[b] = To(b)
           \/ reg[b] = To(b) /\ To(b) \in pend[b]
           \/ due[b]
=============================================================================
