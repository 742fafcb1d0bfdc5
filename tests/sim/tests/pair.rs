//! Handshakes, logins and renegotiations of a pair, on every kind of network.

use std::time::Duration;
use tessera_proto::peer_info::iv_proto;
use tessera_proto::session::{Close, Credentials};
use tessera_proto::{Digest, Secret};
use tessera_sim::world::{PASSWORD, TOKEN};
use tessera_sim::{Mode, Options, Side, World};

const MODES: [Mode; 4] = [Mode::None, Mode::TlsAuth(Digest::Sha256), Mode::TlsCrypt, Mode::TlsCryptV2];

fn connect(world: &mut World) {
    let connected = world.journal.connected;
    let done = world.run(Duration::from_secs(60), |w| w.journal.connected > connected);
    assert!(done, "not connected within the handshake window: {world:?}");
}

#[test]
fn connects_in_every_mode_and_carries_data() {
    for mode in MODES {
        let mut world = World::new(Options::new(1, mode));
        connect(&mut world);
        for _ in 0..10 {
            world.exchange_data();
            world.idle(Duration::from_millis(100));
        }
        assert_eq!(world.journal.delivered, (10, 10), "{mode:?}");
        assert_eq!(world.journal.passwords, [PASSWORD]);
    }
}

#[test]
fn renegotiates_from_either_side_with_the_token() {
    for mode in MODES {
        let mut world = World::new(Options::new(2, mode));
        connect(&mut world);
        for round in 1..=20 {
            let now = world.now();
            if round % 2 == 0 {
                world.client().renegotiate(now);
            } else {
                for handle in world.peers() {
                    world.endpoint().with(handle, |s| s.renegotiate(now));
                }
            }
            let done = world.run(Duration::from_secs(60), |w| w.journal.renegotiated == round);
            assert!(done, "{mode:?} round {round}: {world:?}");
            let before = world.journal.delivered;
            world.exchange_data();
            world.idle(Duration::from_secs(100));
            world.exchange_data();
            world.idle(Duration::from_secs(1));
            assert_eq!(world.journal.delivered, (before.0 + 2, before.1 + 2), "{mode:?} round {round}");
        }
        assert_eq!(world.journal.passwords[0], PASSWORD);
        assert!(world.journal.passwords[1..].iter().all(|p| p == TOKEN), "{:?}", world.journal.passwords);
    }
}

#[test]
fn a_wrong_password_is_refused_and_nothing_flows() {
    for mode in MODES {
        let mut world = World::new(Options { password: "guess".into(), ..Options::new(3, mode) });
        let refused = world.run(Duration::from_secs(60), |w| !w.journal.refused.is_empty());
        assert!(refused, "{mode:?}: {world:?}");
        assert_eq!(world.journal.refused, ["go away"]);
        world.exchange_data();
        world.idle(Duration::from_secs(10));
        assert_eq!((world.journal.connected, world.journal.delivered), (0, (0, 0)));
        assert_eq!(world.endpoint().counts(), (0, 0), "nothing is left of the session");
    }
}

#[test]
fn the_user_name_is_that_of_the_first_login_for_life() {
    let mut world = World::new(Options::new(4, Mode::TlsCrypt));
    connect(&mut world);
    let password = Secret::new(PASSWORD.to_owned());
    world.client().set_credentials(Credentials { username: "mallory".into(), password });
    let now = world.now();
    world.client().renegotiate(now);
    assert!(world.run(Duration::from_secs(60), |w| !w.journal.refused.is_empty()), "{world:?}");
    assert!(world.journal.refused[0].contains("changed"), "{:?}", world.journal.refused);
    assert_eq!(world.journal.passwords, [PASSWORD], "the hook is not even asked");
    assert!(world.peers().is_empty(), "its data ends at once");
}

#[test]
fn a_stop_tells_the_client_to_come_back_and_keep_its_token() {
    let mut world = World::new(Options::new(5, Mode::TlsCryptV2));
    connect(&mut world);
    let now = world.now();
    for handle in world.endpoint().handles() {
        world.endpoint().with(handle, |s| s.close(Close::Restart("bye".into()), now));
    }
    assert!(world.run(Duration::from_secs(10), |w| !w.journal.dismissed.is_empty()));
    assert_eq!(world.journal.dismissed, ["RESTART,[P]:bye"]);
    world.reconnect();
    connect(&mut world);
    assert_eq!(world.journal.passwords, [PASSWORD, TOKEN]);
}

#[test]
fn a_question_is_asked_inside_the_session_and_only_once() {
    for mode in MODES {
        let mut options = Options::new(8, mode);
        options.question = Some("sesame".into());
        options.iv_proto |= iv_proto::AUTH_PENDING_KW;
        let mut world = World::new(options);
        assert!(world.run(Duration::from_secs(30), |w| !w.journal.questions.is_empty()), "{world:?}");
        assert_eq!(world.journal.questions, ["CR_TEXT:R,E:the word?"]);
        assert!(world.journal.waits[0].is_some_and(|seconds| (50..=60).contains(&seconds)), "{world:?}");
        world.idle(Duration::from_secs(40));
        assert_eq!(world.journal.connected, 0, "a person takes time");
        let now = world.now();
        world.client().respond(&Secret::new("sesame".to_owned()), now);
        connect(&mut world);
        let now = world.now();
        world.client().renegotiate(now);
        assert!(world.run(Duration::from_secs(60), |w| w.journal.renegotiated == 1), "{world:?}");
        assert_eq!(world.journal.passwords, [PASSWORD, TOKEN]);
        assert_eq!(world.journal.questions.len(), 1);
    }
}

#[test]
fn a_wrong_answer_is_a_refusal() {
    let mut world =
        World::new(Options { question: Some("sesame".into()), ..Options::new(9, Mode::TlsCrypt) });
    assert!(world.run(Duration::from_secs(30), |w| !w.journal.questions.is_empty()), "{world:?}");
    assert_eq!(world.journal.waits, [None], "this client knows no word behind AUTH_PENDING");
    let now = world.now();
    world.client().respond(&Secret::new("guess".to_owned()), now);
    assert!(world.run(Duration::from_secs(30), |w| !w.journal.refused.is_empty()), "{world:?}");
    world.idle(Duration::from_secs(10));
    assert_eq!((world.journal.connected, world.endpoint().counts()), (0, (0, 0)));
}

/// CVE-2020-15078: whoever keeps asking for its configuration gets nothing before the login is decided.
#[test]
fn a_storm_of_push_requests_gets_nothing_before_the_verdict() {
    let mut world =
        World::new(Options { question: Some("sesame".into()), ..Options::new(10, Mode::TlsCrypt) });
    assert!(world.run(Duration::from_secs(30), |w| !w.journal.questions.is_empty()), "{world:?}");
    for _ in 0..100 {
        let now = world.now();
        world.client().request_push(now);
        world.idle(Duration::from_millis(100));
    }
    assert_eq!((world.journal.connected, world.journal.tokens.len()), (0, 0));
    let now = world.now();
    world.client().respond(&Secret::new("guess".to_owned()), now);
    assert!(world.run(Duration::from_secs(30), |w| !w.journal.refused.is_empty()), "{world:?}");
    assert_eq!((world.journal.connected, world.journal.tokens.len()), (0, 0));
    world.exchange_data();
    world.idle(Duration::from_secs(5));
    assert_eq!(world.journal.delivered, (0, 0));
}

#[test]
fn a_new_token_replaces_the_old_one_while_data_flows() {
    let mut world = World::new(Options::new(11, Mode::TlsCryptV2));
    connect(&mut world);
    for round in 1..=5 {
        let (now, token) = (world.now(), Secret::new(format!("{TOKEN}-{round}")));
        for handle in world.peers() {
            assert_eq!(world.endpoint().with(handle, |s| s.push_token(&token, now)), Some(true));
        }
        assert!(world.run(Duration::from_secs(30), |w| w.journal.tokens.len() == round + 1), "{world:?}");
        assert_eq!(world.journal.tokens.last(), Some(token.expose()));
        world.exchange_data();
        world.idle(Duration::from_secs(1));
    }
    assert_eq!((world.journal.connected, world.journal.delivered), (1, (5, 5)));
}

#[test]
fn key_ids_wrap_from_seven_to_one() {
    let mut world = World::new(Options::new(6, Mode::TlsCrypt));
    connect(&mut world);
    for round in 1..=16 {
        let now = world.now();
        world.client().renegotiate(now);
        assert!(
            world.run(Duration::from_secs(60), |w| w.journal.renegotiated == round),
            "{round}: {world:?}"
        );
        // Within the deferral of the new key, and after it.
        for wait in [1, 70] {
            let before = world.journal.delivered;
            world.exchange_data();
            world.idle(Duration::from_secs(wait));
            assert_eq!(world.journal.delivered, (before.0 + 1, before.1 + 1), "round {round}");
        }
    }
}

/// Anybody can send a reset from the address of a live session.
#[test]
fn a_reset_from_a_known_address_disturbs_nothing() {
    let mut world = World::new(Options::new(7, Mode::None));
    connect(&mut world);
    let now = world.now().mono;
    for sid in 0..50u8 {
        let reset = [0x38, sid, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0];
        world.net().send(Side::Server, &reset, now);
    }
    world.idle(Duration::from_secs(1));
    assert_eq!(world.endpoint().counts(), (1, 0), "no state for any of them");
    let now = world.now();
    world.client().renegotiate(now);
    assert!(world.run(Duration::from_secs(60), |w| w.journal.renegotiated == 1), "{world:?}");
    world.exchange_data();
    world.idle(Duration::from_secs(1));
    assert_eq!(world.journal.delivered, (1, 1));
}
