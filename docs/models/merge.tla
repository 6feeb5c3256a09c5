------------------------------- MODULE merge -------------------------------
(* The merge of two regions, as docs/regions.md has it: freeze, the durable report of every replica, commit, fence,   *)
(* roll-back; with splits after the merge, snapshots to replicas that lag, replicas that are removed, and crashes.    *)
(*                                                                                                                    *)
(* What is taken for granted: Raft. A region is ONE sequence of committed entries, `hist[r]`, each with the state     *)
(* that it leads to; a replica is the length of the prefix that it has applied. Anybody who could propose is a leader. *)
(*                                                                                                                    *)
(* Entries that would have no effect are left out (they change nothing but the count), so "checked at apply" is here  *)
(* a condition of the append. Messages need no variable of their own: what one says ("frozen at f, durable", "T is at *)
(* version 3 and has not absorbed S", "here is T's snapshot of index 4") stays true for ever, so the set of all that   *)
(* was ever sent is a function of `hist` and `dur`; any of it may come at any time, in any order, twice or never.      *)
(*                                                                                                                    *)
(* More is allowed than can happen (a snapshot of a committed state that nobody has applied yet; an entry where no quorum *)
(* is left): what holds here holds with less. Where that would not be so, StoresConverge, only sure steps count.      *)
(*                                                                                                                    *)
(* `Bug` plants a mistake. "none" is the protocol; README.md lists the others and what finds them.                     *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS Stores,     \* model values
          Layout,     \* which regions there are, and who may merge: "two", "chain", "mutual"
          MaxFreezes, \* how often each region may be frozen
          MaxWrites,  \* how many writes there are, over all keys
          MaxSplits,  \* 0 or 1: T splits, C is the child
          MaxRemoves, \* how many replicas are removed, of S and T together
          MaxAdds,    \* 0 or 1: T gets a replica again where it had one
          Bug

VARIABLES hist,  \* hist[r]: the committed entries of region r, as [op, st]; <<>> if it does not exist yet
          vol,   \* vol[s][r]: the replica of r on store s, as it is in memory
          dur    \* dur[s][r]: the same as it would be after a crash; the whole store is one sequence of atomic writes
vars == <<hist, vol, dur>>

Regions == IF Layout = "chain" THEN {"S", "T", "U"} ELSE {"S", "T", "C"}
Merges == CASE Layout = "two"    -> {<<"S", "T">>}
            [] Layout = "chain"  -> {<<"S", "T">>, <<"T", "U">>}
            [] Layout = "mutual" -> {<<"S", "T">>, <<"T", "S">>}
Keys == IF Layout = "chain" THEN 1..3 ELSE 1..2
Symmetry == Permutations(Stores)

------------------------------------------------------------------------------
(* States and entries *)

Max(a, b) == IF a > b THEN a ELSE b
Thawed == [to |-> "", ver |-> 0, cv |-> 0, at |-> 0]  \* otherwise: target, its epoch (version, conf_version), index of the freeze
Op(k, x, n) == [k |-> k, x |-> x, n |-> n]      \* kind; region or store; index, version or key
Begin(range, ver, conf, w) == <<[op |-> Op("begin", "", 0),
    st |-> [range |-> range, ver |-> ver, cv |-> 1, conf |-> conf, frz |-> Thawed, abs |-> {}, w |-> w]]>>

At(r, n) == hist[r][n].st
Last(r) == At(r, Len(hist[r]))
Exists(r) == hist[r] # <<>>
Indices(r) == 1..Len(hist[r])
Count(r, k) == Cardinality({i \in Indices(r) : hist[r][i].op.k = k})
Neighbours(a, b) == \E x \in a, y \in b : x = y + 1 \/ y = x + 1
Overlap(a, b) == a \cap b # {}
Frozen(st) == st.frz.to # ""
Absorbed(x) == \E r \in Regions : Exists(r) /\ x \in Last(r).abs

\* The freezes that region x ever applied; messages about any of them may still be under way.
Freezes(x) == {i \in Indices(x) : hist[x][i].op.k = "freeze"}

Extend(r, op, st) == hist' = [hist EXCEPT ![r] = Append(@, [op |-> op, st |-> st])]

------------------------------------------------------------------------------
(* Replicas *)

None == [is |-> "none", n |-> 0, ver |-> 0, abs |-> {}]
Live(n) == [is |-> "live", n |-> n, ver |-> 0, abs |-> {}]
\* A tombstone keeps version and list OF ONE STATE, the last that the replica had itself.
Tomb(cause, r, n) == [is |-> cause, n |-> 0, ver |-> At(r, n).ver, abs |-> At(r, n).abs]
IsLive(p) == p.is = "live"
IsGone(p) == p.is \in {"merged", "removed"}
LiveOn(s) == {r \in Regions : IsLive(vol[s][r])}
StateOn(s, r) == At(r, vol[s][r].n)

Init ==
    \E left \in (IF Layout = "chain" THEN {TRUE} ELSE BOOLEAN) :
        LET w == [k \in Keys |-> 0]
            home == [r \in Regions |-> CASE r = "S" -> {IF left THEN 1 ELSE 2}
                                         [] r = "T" -> {IF left THEN 2 ELSE 1}
                                         [] r = "U" -> {3}
                                         [] OTHER -> {}]
            p == [s \in Stores |-> [r \in Regions |-> IF r = "C" THEN None ELSE Live(1)]]
        IN /\ hist = [r \in Regions |-> IF r = "C" THEN <<>> ELSE Begin(home[r], 1, Stores, w)]
           /\ vol = p
           /\ dur = p

------------------------------------------------------------------------------
(* What leaders commit *)

RECURSIVE Sum(_, _)
Sum(f, ks) == IF ks = {} THEN 0 ELSE LET k == CHOOSE k \in ks : TRUE IN f[k] + Sum(f, ks \ {k})
\* How many writes to key k were acknowledged, by whomever.
Acked(k) == Sum([r \in Regions |-> Cardinality({i \in Indices(r) : hist[r][i].op.k = "write" /\ hist[r][i].op.n = k})],
                Regions)

Write(r, k) ==
    /\ Exists(r) /\ ~Frozen(Last(r)) /\ k \in Last(r).range
    /\ Sum([q \in Regions |-> Count(q, "write")], Regions) < MaxWrites
    /\ Extend(r, Op("write", "", k), [Last(r) EXCEPT !.w[k] = @ + 1])
    /\ UNCHANGED <<vol, dur>>

\* The freeze names an epoch that the target had at some time: the news of it may be old. (i is that state of the target.)
Freeze(x, t, i) ==
    LET st == Last(x) IN
    /\ ~Frozen(st) /\ ~Absorbed(x) /\ Count(x, "freeze") < MaxFreezes
    /\ Neighbours(st.range, At(t, i).range) /\ At(t, i).conf = st.conf
    /\ Bug = "names_frozen_target" \/ Bug = "frozen_takes_more" \/ ~Frozen(At(t, i))
    /\ Extend(x, Op("freeze", t, At(t, i).ver),
              [st EXCEPT !.ver = @ + 1, !.frz = [to |-> t, ver |-> At(t, i).ver, cv |-> At(t, i).cv, at |-> Len(hist[x]) + 1]])
    /\ UNCHANGED <<vol, dur>>

\* "Frozen at f, durable" has been said by the replica of x on store s.
Reported(s, x, f) == IsGone(dur[s][x]) \/ (IsLive(dur[s][x]) /\ dur[s][x].n >= f)

Commit(x, t, f) ==
    LET fr == At(x, f)
        st == Last(t)
    IN
    /\ fr.frz.to = t /\ x \notin st.abs
    /\ Bug = "no_wait_for_reports" \/ \A s \in fr.conf : Reported(s, x, f)
    /\ Bug = "commit_at_any_epoch" \/ (st.ver = fr.frz.ver /\ st.cv = fr.frz.cv)
    /\ Bug = "frozen_takes_more" \/ ~Frozen(st)
    /\ Extend(t, Op("commit", x, f),
              [st EXCEPT !.range = @ \cup fr.range, !.ver = Max(@, fr.ver) + 1, !.abs = @ \cup {x},
                         !.w = [k \in Keys |-> IF k \in fr.range THEN fr.w[k] ELSE @[k]]])
    /\ UNCHANGED <<vol, dur>>

Fence(x, t, f) ==
    LET st == Last(t) IN
    /\ At(x, f).frz.to = t /\ st.ver <= At(x, f).frz.ver
    /\ Bug = "frozen_takes_more" \/ ~Frozen(st)
    /\ Extend(t, Op("fence", "", 0), [st EXCEPT !.ver = @ + 1])
    /\ UNCHANGED <<vol, dur>>

\* Proof that the commit of this freeze did not and cannot happen: a state of the target, or a tombstone of it.
Proves(range, x, fr, ver, abs) ==
    /\ ver > fr.ver
    /\ IF Bug = "proof_by_ranges" THEN ~Overlap(range, Last(x).range) ELSE x \notin abs
Proof(x, fr) ==
    \/ Bug = "no_proof"
    \/ Bug = "frozen_answer_is_proof" /\ \E i \in Indices(fr.to) : Frozen(At(fr.to, i)) /\ At(fr.to, i).ver > fr.ver
    \/ \E i \in Indices(fr.to) : LET t == At(fr.to, i) IN Proves(t.range, x, fr, t.ver, t.abs)
    \/ \E s \in Stores : LET p == vol[s][fr.to] IN IsGone(p) /\ Proves({}, x, fr, p.ver, p.abs)

RollBack(x) ==
    LET st == Last(x) IN
    /\ Frozen(st) /\ Proof(x, st.frz)
    /\ Extend(x, Op("rollback", "", st.frz.at), [st EXCEPT !.ver = @ + 1, !.frz = Thawed])
    /\ UNCHANGED <<vol, dur>>

\* The parent keeps the left part, and its list.
Split(k) ==
    LET st == Last("T")
        right == {j \in st.range : j >= k}
    IN
    /\ "C" \in Regions /\ ~Exists("C") /\ MaxSplits > 0
    /\ ~Frozen(st) /\ ~Absorbed("T") /\ right # {} /\ right # st.range
    /\ hist' = [hist EXCEPT !["T"] = Append(@, [op |-> Op("split", "C", k),
                                                 st |-> [st EXCEPT !.range = @ \ right, !.ver = @ + 1]]),
                            !["C"] = Begin(right, st.ver + 1, st.conf, st.w)]
    /\ UNCHANGED <<vol, dur>>

Removes == Count("S", "remove") + Count("T", "remove")
Remove(r, s) ==
    LET st == Last(r) IN
    /\ Removes < MaxRemoves
    /\ ~Frozen(st) /\ ~Absorbed(r) /\ s \in st.conf /\ Cardinality(st.conf) > 1
    /\ Extend(r, Op("remove", s, 0), [st EXCEPT !.conf = @ \ {s}, !.cv = @ + 1])
    /\ UNCHANGED <<vol, dur>>

\* A replica with a new id on a store that had one: it is not the same as the old one, which may not know yet that it is gone.
Add(s) ==
    LET st == Last("T") IN
    /\ Count("T", "add") < MaxAdds
    /\ ~Frozen(st) /\ ~Absorbed("T") /\ s \notin st.conf
    /\ Extend("T", Op("add", s, 0), [st EXCEPT !.conf = @ \cup {s}, !.cv = @ + 1])
    /\ UNCHANGED <<vol, dur>>

------------------------------------------------------------------------------
(* What stores do *)

\* Store s applies the next entry of r.
Apply(s, r) ==
    LET n == vol[s][r].n + 1
        op == hist[r][n].op
    IN
    /\ IsLive(vol[s][r]) /\ n <= Len(hist[r])
    /\ CASE op.k = "commit" ->
            \* The source beside it is frozen at f. If it is not, the replica waits; if there is none, it stalls.
            /\ IsLive(vol[s][op.x]) /\ vol[s][op.x].n >= op.n
            /\ vol' = [vol EXCEPT ![s][r] = Live(n), ![s][op.x] = Tomb("merged", op.x, @.n)]
            /\ UNCHANGED dur
         [] op.k = "split" ->
            \* Durable before anybody hears of it (arbiter.tla has the details).
            /\ vol' = [vol EXCEPT ![s][r] = Live(n), ![s]["C"] = IF @.is = "none" THEN Live(1) ELSE @]
            /\ dur' = [dur EXCEPT ![s] = vol'[s]]
         [] op.k = "remove" /\ op.x = s ->
            /\ vol' = [vol EXCEPT ![s][r] = Tomb("removed", r, n)]
            /\ UNCHANGED dur
         [] OTHER ->
            /\ vol' = [vol EXCEPT ![s][r] = Live(n)]
            /\ UNCHANGED dur
    /\ UNCHANGED hist

\* The descriptor at index j names the very replica p of r on store s (not an earlier or later one with another id).
SameReplica(s, r, p, j) ==
    /\ s \in At(r, j).conf
    /\ IF p.is = "none" THEN \A i \in Indices(r) : hist[r][i].op = Op("add", s, 0) => j >= i
                        ELSE \A i \in p.n..j : s \in At(r, i).conf

\* Store s installs a snapshot of r at index j, whichever was ever made.
Install(s, r, j) ==
    LET d == At(r, j)
        others == LiveOn(s) \ {r}
        overlapping == {x \in others : Overlap(StateOn(s, x).range, d.range)}
        \* The start of a region is its least key.
        inferred == {x \in overlapping : /\ StateOn(s, x).ver < d.ver
                                         /\ \E k \in d.range : \A q \in StateOn(s, x).range : k <= q /\ k \in StateOn(s, x).range}
        named == IF Bug = "absorption_by_ranges" THEN inferred
                 ELSE {x \in (IF Bug = "only_overlapping_go" THEN overlapping ELSE others) : x \in d.abs}
    IN
    /\ vol[s][r].is = "none" \/ (IsLive(vol[s][r]) /\ vol[s][r].n < j)
    /\ SameReplica(s, r, vol[s][r], j)
    /\ overlapping \subseteq named
    /\ vol' = [vol EXCEPT ![s] = [x \in Regions |-> IF x = r THEN Live(j)
                                                    ELSE IF x \in named THEN Tomb("merged", x, vol[s][x].n)
                                                    ELSE vol[s][x]]]
    /\ UNCHANGED <<hist, dur>>

\* A replica is told of a descriptor of its region that lacks it.
ToldRemoved(s, r, i) ==
    /\ IsLive(vol[s][r]) /\ i > vol[s][r].n /\ ~SameReplica(s, r, vol[s][r], i)
    /\ vol' = [vol EXCEPT ![s][r] = [Tomb("removed", r, vol[s][r].n)
                                       EXCEPT !.ver = IF Bug = "tombstone_of_two_states" THEN At(r, i).ver ELSE @]]
    /\ UNCHANGED <<hist, dur>>

\* A message for T's new replica creates it, once the old one is gone for good (arbiter.tla has the details).
Create(s) ==
    /\ vol[s]["T"].is = "removed" /\ dur[s] = vol[s]
    /\ \E i \in Indices("T") : hist["T"][i].op = Op("add", s, 0)
    /\ vol' = [vol EXCEPT ![s]["T"] = None]
    /\ UNCHANGED <<hist, dur>>

\* A replica of a merged region is told so, and goes if the target has no replica here that would absorb it.
ToldMerged(s, x) ==
    LET fr == StateOn(s, x).frz
        merged == Max(StateOn(s, x).ver, fr.ver) + 1
    IN
    /\ IsLive(vol[s][x]) /\ Frozen(StateOn(s, x))
    /\ \E q \in Stores : vol[q][x].is = "merged"
    /\ \/ IsGone(vol[s][fr.to]) /\ vol[s][fr.to].ver >= merged
       \/ \E i \in Indices(fr.to) : At(fr.to, i).ver >= merged /\ s \notin At(fr.to, i).conf
    /\ vol' = [vol EXCEPT ![s][x] = Tomb("merged", x, @.n)]
    /\ UNCHANGED <<hist, dur>>

Flush(s) == dur[s] # vol[s] /\ dur' = [dur EXCEPT ![s] = vol[s]] /\ UNCHANGED <<hist, vol>>
Crash(s) == dur[s] # vol[s] /\ vol' = [vol EXCEPT ![s] = dur[s]] /\ UNCHANGED <<hist, dur>>

Commits ==
    \/ \E r \in Regions, k \in Keys : Write(r, k)
    \/ \E m \in Merges : \E i \in Indices(m[2]) : Freeze(m[1], m[2], i)
    \/ \E m \in Merges : \E f \in Freezes(m[1]) : Commit(m[1], m[2], f) \/ Fence(m[1], m[2], f)
    \/ \E m \in Merges : RollBack(m[1])
    \/ \E k \in Keys : Split(k)
    \/ \E s \in Stores : Remove("S", s) \/ Remove("T", s) \/ Add(s)
StoreSteps ==
    \/ \E s \in Stores, r \in Regions :
        \/ Apply(s, r)
        \/ \E j \in Indices(r) : Install(s, r, j) \/ ToldRemoved(s, r, j)
        \/ ToldMerged(s, r)
    \/ \E s \in Stores : Create(s) \/ Flush(s)
Next == Commits \/ StoreSteps \/ \E s \in Stores : Crash(s)
Spec == Init /\ [][Next]_vars

------------------------------------------------------------------------------
(* What must hold *)

Owners(k) == {r \in Regions : Exists(r) /\ ~Absorbed(r) /\ k \in Last(r).range}

\* Each key has one owner among the regions that were not absorbed.
OneOwner == \A k \in Keys : Cardinality(Owners(k)) = 1

\* F2: of two regions' states that share a key one has the higher version, and the owner's is the highest of all.
VersionsOrderOwners ==
    /\ \A r, q \in Regions : r # q => \A i \in Indices(r), j \in Indices(q) :
          Overlap(At(r, i).range, At(q, j).range) => At(r, i).ver # At(q, j).ver
    /\ \A k \in Keys : \A r \in Owners(k) : \A q \in Regions \ {r} : \A j \in Indices(q) :
          k \in At(q, j).range => At(q, j).ver < Last(r).ver

NeverBothEnds ==
    \A m \in Merges : \A f \in Freezes(m[1]) :
        ~(/\ \E i \in Indices(m[2]) : hist[m[2]][i].op = Op("commit", m[1], f)
          /\ \E i \in Indices(m[1]) : hist[m[1]][i].op = Op("rollback", "", f))

NoWriteLost == \A k \in Keys : \A r \in Owners(k) : Last(r).w[k] = Acked(k)

\* F4.
NoOverlapOnAStore ==
    \A s \in Stores : \A r, q \in LiveOn(s) : r # q => ~Overlap(StateOn(s, r).range, StateOn(s, q).range)

NoLiveReplicaEntombed ==
    \A s \in Stores, r \in Regions :
        /\ vol[s][r].is = "merged" => Absorbed(r)
        /\ vol[s][r].is = "removed" => \E i \in Indices(r) : hist[r][i].op = Op("remove", s, 0)

\* What is absorbed, by the word of a replica on the same store, is not there any more: nobody would ever fetch it.
NoGhost == \A s \in Stores : \A r, x \in LiveOn(s) : x \notin StateOn(s, r).abs

\* A replica that waits at a commit for the source beside it waits for something that can still come: a leader of the source.
NobodyWaitsInVain ==
    \A s \in Stores, r \in Regions :
        IsLive(vol[s][r]) /\ vol[s][r].n < Len(hist[r]) =>
            LET op == hist[r][vol[s][r].n + 1].op IN
            op.k = "commit" /\ IsLive(vol[s][op.x]) /\ vol[s][op.x].n < op.n /\ s \in StateOn(s, r).conf =>
                LET conf == At(op.x, op.n).conf IN
                2 * Cardinality({q \in conf : IsLive(vol[q][op.x])}) > Cardinality(conf)

------------------------------------------------------------------------------
(* What must come, said without time. *)

\* A frozen region always has an end before it: its target is there to commit or to be fenced, or what is left of the target proves
\* that the region may be rolled back.
FreezeHasAnEnd ==
    \A m \in Merges : LET st == Last(m[1]) IN
        Frozen(st) /\ ~Absorbed(m[1]) => ~Absorbed(st.frz.to) \/ Proof(m[1], st.frz)

\* Somebody can still tell store s what entry n + 1 is, and that it is committed: Raft sees to that while the region lives. When it is
\* absorbed, another replica must be there that has it, or a quorum.
EntryIsToBeHad(s, r, n) ==
    LET conf == At(r, n).conf IN
    \/ ~Absorbed(r)
    \/ \E q \in Stores \ {s} : IsLive(vol[q][r]) /\ vol[q][r].n > n
    \/ 2 * Cardinality({q \in conf : IsLive(vol[q][r])}) > Cardinality(conf)
SnapshotIsToBeHad(s, r, j) == \E q \in Stores \ {s} : IsLive(vol[q][r]) /\ vol[q][r].n >= j
SureSteps ==
    \/ \E s \in Stores, r \in Regions :
        \/ IsLive(vol[s][r]) /\ EntryIsToBeHad(s, r, vol[s][r].n) /\ Apply(s, r)
        \/ \E j \in Indices(r) : (SnapshotIsToBeHad(s, r, j) /\ Install(s, r, j)) \/ ToldRemoved(s, r, j)
        \/ ToldMerged(s, r)
    \/ \E s \in Stores : Create(s) \/ Flush(s)

\* Every step of a store takes it forward, so without crashes the stores come to rest, and then every replica that should be here is
\* here, at the end of its log, and no other.
StoresConverge ==
    ENABLED SureSteps \/
    \A s \in Stores, r \in Regions : Exists(r) =>
        IF s \in Last(r).conf /\ ~Absorbed(r) THEN vol[s][r] = Live(Len(hist[r])) ELSE ~IsLive(vol[s][r])

\* The same as FreezeHasAnEnd with time, for tiny instances.
Progress == \E m \in Merges : \E f \in Freezes(m[1]) : Commit(m[1], m[2], f) \/ Fence(m[1], m[2], f)
FairSpec == Spec /\ WF_vars(Progress) /\ \A m \in Merges : WF_vars(RollBack(m[1]))
MergeEnds == \A m \in Merges : Frozen(Last(m[1])) ~> (~Frozen(Last(m[1])) \/ Absorbed(m[1]))
=============================================================================
