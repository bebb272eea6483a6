//! The laws of the refresh decision, against a provider that rotates, forgives and forgets as real ones do.

use proptest::prelude::*;

use super::*;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000_000 + secs * 1_000)
}

fn refused(code: &str) -> TokenFailure {
    TokenFailure { kind: FailureKind::Refused(code.into()), status: Some(400), retry_after: None }
}

fn unreachable() -> TokenFailure {
    TokenFailure { kind: FailureKind::Unreachable, status: None, retry_after: None }
}

fn hourly() -> RefreshState {
    RefreshState::new(Renewal::RefreshToken, at(0), Some(at(3_600)))
}

fn rotating(grace: u64) -> RefreshProfile {
    RefreshProfile { rotates: true, grace: Duration::from_secs(grace), ..RefreshProfile::DEFAULT }
}

fn intent(decision: Decision) -> Intent {
    match decision {
        Decision::Refresh(intent) => intent,
        other => panic!("no refresh but {other:?}"),
    }
}

#[test]
fn the_margin_is_a_tenth_of_the_lifetime_and_at_most_five_minutes() {
    let profile = rotating(0);
    let state = hourly();
    assert_eq!(state.decide(&profile, at(3_299), Trigger::Use), Decision::Use);
    assert!(matches!(state.decide(&profile, at(3_300), Trigger::Use), Decision::Refresh(_)));
    let short = RefreshState::new(Renewal::RefreshToken, at(0), Some(at(600)));
    assert_eq!(short.refresh_at(&profile), Some(at(540)));
    let late = RefreshProfile { margin: Some(Duration::from_secs(25)), ..rotating(0) };
    assert_eq!(short.refresh_at(&late), Some(at(575)));
    // A margin longer than the lifetime would make each use a refresh.
    let early = RefreshProfile { margin: Some(Duration::from_secs(86_400)), ..rotating(0) };
    assert_eq!(short.refresh_at(&early), Some(at(300)));
}

#[test]
fn a_pause_is_kept_and_the_token_used_while_it_is_good() {
    let profile = rotating(0);
    let mut state = hourly();
    state.begin(intent(state.decide(&profile, at(3_400), Trigger::Use)));
    let asked = TokenFailure { retry_after: Some(Duration::from_secs(120)), ..unreachable() };
    state.fail(&profile, &asked, at(3_401), 0);
    assert_eq!(state.decide(&profile, at(3_402), Trigger::Use), Decision::Use);
    assert!(matches!(state.decide(&profile, at(3_521), Trigger::Use), Decision::Refresh(Intent { attempt: 2, .. })));
    // The same, when the token is expired.
    let mut expired = RefreshState::new(Renewal::RefreshToken, at(0), Some(at(3_000)));
    expired.begin(intent(expired.decide(&profile, at(3_400), Trigger::Use)));
    expired.fail(&profile, &asked, at(3_401), 0);
    assert!(matches!(expired.decide(&profile, at(3_402), Trigger::Use), Decision::Wait { until, .. } if until == at(3_521)));
    assert!(matches!(expired.decide(&profile, at(3_402), Trigger::Forced), Decision::Refresh(_)));
}

#[test]
fn pauses_grow_and_are_bounded() {
    let all: Vec<_> = (1..40).map(|n| pause(n, 255)).collect();
    assert_eq!(all[0], FIRST_PAUSE);
    assert!(all.is_sorted());
    assert_eq!(all.last(), Some(&LONGEST_PAUSE));
    assert_eq!(pause(1, 0), FIRST_PAUSE / 2);
}

#[test]
fn a_lost_answer_is_repeated_only_where_the_old_token_is_still_taken() {
    for (profile, repeats) in
        [(rotating(0), false), (rotating(1_800), true), (RefreshProfile { rotates: false, ..rotating(0) }, true)]
    {
        let mut state = hourly();
        state.begin(intent(state.decide(&profile, at(3_700), Trigger::Use)));
        // … and the process ends here.
        let decision = state.decide(&profile, at(3_710), Trigger::Use);
        assert_eq!(matches!(decision, Decision::Refresh(_)), repeats, "{profile:?}");
        assert_eq!(decision == Decision::Settle, !repeats);
        let later = state.decide(&profile, at(3_700 + 1_800), Trigger::Use);
        assert_eq!(matches!(later, Decision::Refresh(_)), !profile.rotates, "{profile:?}");
        if profile.rotates {
            state.settle();
            assert_eq!(state.decide(&profile, at(5_500), Trigger::Forced), Decision::Refuse(ReauthReason::InDoubt));
        }
    }
}

#[test]
fn an_access_token_that_is_still_good_is_used_when_the_refresh_token_is_lost() {
    let profile = rotating(0);
    let mut state = hourly();
    state.begin(intent(state.decide(&profile, at(3_400), Trigger::Due)));
    assert_eq!(state.decide(&profile, at(3_401), Trigger::Use), Decision::Settle);
    state.settle();
    assert_eq!(state.decide(&profile, at(3_500), Trigger::Use), Decision::Use);
    assert_eq!(state.decide(&profile, at(3_600), Trigger::Use), Decision::Refuse(ReauthReason::InDoubt));
    assert_eq!(state.due_at(&profile, 0), None);
}

#[test]
fn within_the_grace_the_token_before_is_tried_when_the_new_one_is_refused() {
    let profile = rotating(1_800);
    let mut state = hourly();
    state.begin(intent(state.decide(&profile, at(3_400), Trigger::Use)));
    state.succeed(&profile, Some(Duration::from_secs(600)), true, 0);
    assert_eq!(state.previous_until, Some(at(3_400 + 1_800)));
    state.begin(intent(state.decide(&profile, at(4_000), Trigger::Use)));
    state.fail(&profile, &refused("invalid_grant"), at(4_000), 0);
    let second = intent(state.decide(&profile, at(4_001), Trigger::Use));
    assert_eq!(second.which, Which::Previous);
    state.begin(second);
    state.fail(&profile, &refused("invalid_grant"), at(4_001), 0);
    assert_eq!(state.decide(&profile, at(4_002), Trigger::Forced), Decision::Refuse(ReauthReason::Revoked));
}

#[test]
fn a_clock_that_went_back_keeps_no_dead_token_alive() {
    let profile = rotating(0);
    let state = RefreshState::new(Renewal::RefreshToken, at(86_400), Some(at(90_000)));
    assert!(matches!(state.decide(&profile, at(0), Trigger::Use), Decision::Refresh(_)));
    let mut waiting = state.clone();
    waiting.begin(intent(state.decide(&profile, at(200_000), Trigger::Use)));
    waiting.fail(&profile, &unreachable(), at(200_000), 0);
    // The pause was agreed on in a future that never came.
    assert!(matches!(waiting.decide(&profile, at(0), Trigger::Use), Decision::Refresh(_)));
}

#[test]
fn a_refused_request_renews_once_and_not_for_tokens_that_are_new() {
    let profile = rotating(0);
    let mut state = RefreshState::new(Renewal::RefreshToken, at(0), None);
    assert_eq!(state.decide(&profile, at(100_000), Trigger::Use), Decision::Use);
    let decision = state.decide(&profile, at(100_000), Trigger::Rejected { generation: 1 });
    state.begin(intent(decision));
    state.succeed(&profile, None, false, 0);
    // The other callers whose requests were refused with the old token.
    assert_eq!(state.decide(&profile, at(100_001), Trigger::Rejected { generation: 1 }), Decision::Use);
    assert!(!matches!(state.decide(&profile, at(100_001), Trigger::Rejected { generation: 2 }), Decision::Refresh(_)));
}

#[test]
fn tokens_that_are_expired_as_they_come_are_kept_and_make_no_storm() {
    let profile = rotating(0);
    let mut state = hourly();
    for attempt in 1..=3 {
        let now = at(3_600 * u64::from(attempt));
        state.begin(intent(state.decide(&profile, now, Trigger::Use)));
        state.succeed(&profile, Some(Duration::ZERO), true, 255);
        assert_eq!((state.generation, state.failures), (u64::from(attempt) + 1, attempt));
        assert!(matches!(state.decide(&profile, now, Trigger::Use), Decision::Wait { .. }));
    }
    state.begin(intent(state.decide(&profile, at(20_000), Trigger::Use)));
    state.succeed(&profile, Some(Duration::from_secs(60)), true, 255);
    assert_eq!((state.failures, state.decide(&profile, at(20_000), Trigger::Use)), (0, Decision::Use));
}

#[test]
fn keep_alive_uses_the_refresh_token_before_it_dies() {
    let profile = RefreshProfile { keep_alive: Some(Duration::from_secs(1_000_000)), ..rotating(0) };
    let state = RefreshState::new(Renewal::RefreshToken, at(0), None);
    assert_eq!(state.due_at(&profile, 7), Some(at(1_000_000)));
    assert_eq!(state.decide(&profile, at(999_999), Trigger::Due), Decision::Use);
    assert!(matches!(state.decide(&profile, at(1_000_000), Trigger::Due), Decision::Refresh(_)));
    assert_eq!(state.decide(&profile, at(1_000_000), Trigger::Use), Decision::Use);
}

/// What happens to one connection.
#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    /// The wall clock is set.
    Clock(i64),
    Ask(Trigger, Outcome),
}

/// What comes of a request, if one is made.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Answered,
    /// The provider did its part; the process ended before anything was stored.
    AnsweredThenCrash,
    /// The process ended before the request was made.
    CrashBeforeRequest,
    ServerError,
    Misconfigured,
}

/// A provider that counts refresh tokens: 0 is the first.
struct Provider {
    newest: u32,
    /// Of each replaced token, when it was replaced.
    replaced: Vec<Timestamp>,
    profile: RefreshProfile,
    lifetime: u64,
}

impl Provider {
    fn answer(&mut self, token: u32, now: Timestamp) -> Result<Option<u32>, TokenFailure> {
        let taken = token == self.newest || now.since(self.replaced[token as usize]) < self.profile.grace;
        if !taken {
            return Err(refused("invalid_grant"));
        }
        if !self.profile.rotates {
            return Ok(None);
        }
        self.newest += 1;
        self.replaced.resize(self.newest as usize, now);
        Ok(Some(self.newest))
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let trigger = prop_oneof![
        4 => Just(Trigger::Use), 2 => Just(Trigger::Due), 1 => Just(Trigger::Forced),
        1 => (0..6_u64).prop_map(|generation| Trigger::Rejected { generation }),
    ];
    let outcome = prop_oneof![
        4 => Just(Outcome::Answered), 1 => Just(Outcome::AnsweredThenCrash), 1 => Just(Outcome::CrashBeforeRequest),
        1 => Just(Outcome::ServerError), 1 => Just(Outcome::Misconfigured),
    ];
    let step = prop_oneof![
        3 => (0..2_500_u64).prop_map(Step::Pass),
        1 => prop_oneof![Just(86_400_i64), Just(-86_400), -10_000..10_000_i64].prop_map(Step::Clock),
        6 => (trigger, outcome).prop_map(|(trigger, outcome)| Step::Ask(trigger, outcome)),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_answers_crashes_and_clock_steps_breaks_the_laws(
        steps in steps(),
        rotates: bool,
        grace in prop_oneof![Just(0_u64), Just(30), Just(1_800)],
        steady_clock: bool,
        lifetime in 60..7_200_u64,
    ) {
        let profile = RefreshProfile { rotates, grace: Duration::from_secs(grace), ..RefreshProfile::DEFAULT };
        let mut provider = Provider { newest: 0, replaced: Vec::new(), profile: profile.clone(), lifetime };
        // What is durable; a crash loses nothing else, since every transition is durable before the next thing happens.
        let mut state = RefreshState::new(Renewal::RefreshToken, at(0), Some(at(lifetime)));
        let (mut current, mut previous) = (0_u32, None::<u32>);
        let mut tombstones: Vec<u32> = Vec::new();
        let mut answered: Vec<u64> = Vec::new();
        let (mut time, mut offset) = (0_u64, 0_i64);
        // When the access token in the state really expires.
        let mut really_expires = lifetime;
        for step in steps {
            let now = Timestamp::from_millis(at(time).as_millis().checked_add_signed(offset * 1_000).unwrap());
            match step {
                Step::Pass(seconds) => time += seconds,
                Step::Clock(by) if !steady_clock => offset = (offset + by).clamp(-200_000, 200_000),
                Step::Clock(_) => {}
                Step::Ask(trigger, outcome) => {
                    let mut decision = state.decide(&profile, now, trigger);
                    if decision == Decision::Settle {
                        let credential = (current, previous);
                        state.settle();
                        tombstones.push(current);
                        tombstones.extend(previous);
                        prop_assert_eq!(credential, (current, previous), "settling deletes nothing");
                        decision = state.decide(&profile, now, trigger);
                        prop_assert_ne!(&decision, &Decision::Settle);
                    }
                    match decision {
                        Decision::Use => {
                            prop_assert!(state.expires_at.is_none_or(|expires| now < expires));
                            if steady_clock {
                                prop_assert!(time < really_expires, "an expired token is handed out");
                            }
                        }
                        Decision::Refresh(intent) => {
                            let token = if intent.which == Which::Current { current } else { previous.unwrap() };
                            prop_assert!(!tombstones.contains(&token), "a dead token is sent");
                            prop_assert!(!answered.contains(&intent.generation), "a second request for one generation");
                            state.begin(intent);
                            let request_time = time;
                            match outcome {
                                Outcome::CrashBeforeRequest => continue,
                                Outcome::AnsweredThenCrash => {
                                    let _ = provider.answer(token, now);
                                    if rotates && grace == 0 {
                                        answered.push(intent.generation);
                                    }
                                }
                                Outcome::ServerError => state.fail(&profile, &unreachable(), now, 9),
                                Outcome::Misconfigured => state.fail(&profile, &refused("invalid_client"), now, 9),
                                Outcome::Answered => match provider.answer(token, now) {
                                    Ok(new) => {
                                        answered.push(intent.generation);
                                        state.succeed(&profile, Some(Duration::from_secs(provider.lifetime)), new.is_some(), 9);
                                        really_expires = request_time + lifetime;
                                        if let Some(new) = new {
                                            (previous, current) = (state.previous_until.map(|_| token), new);
                                        } else {
                                            current = token;
                                        }
                                        prop_assert!(state.generation == intent.generation + 1);
                                    }
                                    Err(failure) => {
                                        state.fail(&profile, &failure, now, 9);
                                        tombstones.push(token);
                                        if state.ended.is_some() {
                                            tombstones.extend([current].into_iter().chain(previous));
                                        }
                                    }
                                },
                            }
                            if !matches!(outcome, Outcome::Answered) {
                                prop_assert_eq!(state.ended, None, "only the provider's word on the grant ends it");
                            }
                        }
                        Decision::Wait { until, .. } => prop_assert!(now < until && until.since(now) <= LONGEST_RETRY_AFTER),
                        Decision::Refuse(_) => {}
                        Decision::Settle => unreachable!(),
                    }
                    // Where the old token is always taken and the clock is right, no crash ever costs a grant.
                    if !rotates {
                        prop_assert_eq!(state.ended, None);
                    }
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn what_is_due_within_a_while_is_due_at_once_in_its_phase_and_never_late(
        at_millis in 0..u64::from(u32::MAX),
        within in 0..4_000_000_u64,
        later in 0..4_000_000_u64,
        phase in any::<u16>(),
    ) {
        let (at, within) = (Timestamp::from_millis(1_000_000_000_000 + at_millis), Duration::from_millis(within));
        let due = aligned(at, within, phase);
        prop_assert!(due >= at && due.since(at) <= within);
        // Another one of the phase that becomes due before then is due at the same moment.
        let other = at.plus(Duration::from_millis(later));
        let others = aligned(other, within, phase);
        if other <= due {
            prop_assert_eq!(others, due);
        } else {
            let period = others.since(due).as_millis();
            prop_assert!(period == 0 || period.is_multiple_of(1 << within.as_millis().max(1).ilog2()));
        }
    }
}

#[test]
fn phases_divide_the_while_evenly() {
    let (begin, within) = (at(0), Duration::from_secs(150));
    let mut slots = [0_u32; 8];
    for phase in (0..=u16::MAX).step_by(64) {
        let behind = aligned(begin, within, phase).since(begin).as_millis();
        slots[usize::try_from(behind >> 14).unwrap()] += 1;
    }
    assert!(slots.iter().all(|count| (100..=156).contains(count)), "{slots:?}");
}
