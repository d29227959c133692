//! The provider with a token in memory that goes away, locks itself, and is exchanged. SoftHSM2 is asked in `tests/e2e/hsm.rs`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::super::{Provider as _, ProviderError};
use super::keys::{Found, HEADER_LENGTH, IV_LENGTH, Parts};
use super::token::{Keeper, Module, Session};
use super::{Config, Fault, Pkcs11};

const DATA_KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const PIN: &str = "1234-right";

/// What happens to a token, seen from outside.
#[derive(Default)]
struct Token {
    keys: Vec<(Found, [u8; 32])>,
    away: bool,
    /// Sessions of before this login are invalid.
    valid_from: u32,
    logins: u32,
    wrong_pins: u32,
    calls: u32,
    /// How far the clock has been wound forward.
    ahead: Duration,
}

#[derive(Clone)]
struct Fake(Arc<Mutex<Token>>);

struct FakeSession {
    token: Fake,
    login: u32,
}

impl Fake {
    fn new() -> Self {
        let fake = Self(Arc::default());
        fake.add(&[1]);
        fake
    }

    fn lock(&self) -> MutexGuard<'_, Token> {
        self.0.lock().unwrap()
    }

    /// Makes a key, of bytes that no other has.
    fn add(&self, id: &[u8]) {
        let mut token = self.lock();
        let mut bytes = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes).unwrap();
        let found = Found {
            id: id.to_vec(),
            length: 32,
            encrypts: true,
            decrypts: true,
            sensitive: true,
            extractable: false,
            check_value: bytes[..3].to_vec(),
        };
        token.keys.push((found, bytes));
    }

    /// Lets so much time pass that a login may be tried again, and no session is young.
    fn pass_time(&self) {
        self.lock().ahead += Duration::from_millis(1100);
    }

    fn lose_sessions(&self) {
        let mut token = self.lock();
        token.valid_from = token.logins + 1;
    }
}

impl Module for Fake {
    type Session = FakeSession;

    fn log_in(&self, pin: &str, _: bool) -> Result<FakeSession, Fault> {
        let mut token = self.lock();
        if token.away {
            return Err(Fault::Failed("C_OpenSession says CKR_TOKEN_NOT_PRESENT".to_owned()));
        }
        if pin != PIN {
            token.wrong_pins += 1;
            return Err(Fault::Pin("C_Login says CKR_PIN_INCORRECT".to_owned()));
        }
        token.logins += 1;
        Ok(FakeSession { token: self.clone(), login: token.logins })
    }
}

impl FakeSession {
    fn ask(&self) -> Result<MutexGuard<'_, Token>, Fault> {
        let mut token = self.token.lock();
        token.calls += 1;
        if token.away {
            return Err(Fault::Failed("CKR_DEVICE_REMOVED".to_owned()));
        }
        if self.login < token.valid_from {
            return Err(Fault::Failed("CKR_SESSION_HANDLE_INVALID".to_owned()));
        }
        Ok(token)
    }

    fn cipher(&self, place: usize) -> Result<LessSafeKey, Fault> {
        let bytes = self.ask()?.keys[place].1;
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes).unwrap()))
    }
}

impl Session for FakeSession {
    fn token(&self) -> &str {
        "Maker 0001"
    }

    fn keys(&mut self) -> Result<Vec<Found>, Fault> {
        Ok(self.ask()?.keys.iter().map(|(found, _)| found.clone()).collect())
    }

    fn encrypt(
        &self,
        place: usize,
        iv: &mut [u8; IV_LENGTH],
        header: &[u8; HEADER_LENGTH],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        let mut sealed = plaintext.to_vec();
        let nonce = Nonce::assume_unique_for_key(*iv);
        self.cipher(place)?.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).unwrap();
        Ok(sealed)
    }

    fn decrypt(&self, place: usize, wrapped: &Parts<'_>) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let mut sealed = wrapped.sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(wrapped.iv);
        let plain = self
            .cipher(place)?
            .open_in_place(nonce, Aad::from(wrapped.header), &mut sealed)
            .map(|plain| plain.to_vec());
        plain.map(Zeroizing::new).map_err(|_| Fault::Data("the wrapped key has been changed".to_owned()))
    }

    fn add_key(&self, id: &[u8]) -> Result<(), Fault> {
        drop(self.ask()?);
        self.token.add(id);
        Ok(())
    }
}

/// A file with a PIN, and the token's keeper.
fn keeper(fake: &Fake) -> (tempfile::TempDir, Keeper<Fake>) {
    let folder = tempfile::tempdir().unwrap();
    write_pin(folder.path(), PIN);
    let text = format!("{{module: /p11.so, token: class, key: kek, pin: {{file: {}/pin}}}}", folder.path().display());
    let config: Config = serde_yaml::from_str(&text).unwrap();
    config.check().unwrap();
    let clock = fake.clone();
    let start = Instant::now();
    let keeper = Keeper::new(fake.clone(), &config, move || start + clock.lock().ahead);
    (folder, keeper)
}

fn write_pin(folder: &Path, pin: &str) {
    std::fs::write(folder.join("pin"), pin).unwrap();
    std::fs::set_permissions(folder.join("pin"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn what_is_wrapped_is_unwrapped_and_a_changed_byte_is_noticed() {
    let fake = Fake::new();
    let (_folder, mut keeper) = keeper(&fake);
    let (one, two) = (keeper.wrap(DATA_KEY).unwrap(), keeper.wrap(DATA_KEY).unwrap());
    assert_eq!(one.key_id, keeper.key_id().unwrap());
    assert!(one.key_id.starts_with("pkcs11-") && one.key_id.contains("-v1-"), "{}", one.key_id);
    assert!(one.key_id.contains(&hex::encode(&one.ciphertext[1..9])), "{}", one.key_id);
    assert_ne!(one.ciphertext, two.ciphertext, "the IV is random");
    assert_eq!(one.ciphertext.len(), HEADER_LENGTH + IV_LENGTH + DATA_KEY.len() + 16);
    assert_eq!(keeper.unwrap(&one.ciphertext).unwrap().as_slice(), DATA_KEY);
    for index in 0..one.ciphertext.len() {
        let mut changed = one.ciphertext.clone();
        changed[index] ^= 1;
        assert!(matches!(keeper.unwrap(&changed), Err(ProviderError::Unknown(_))), "byte {index}");
        assert!(matches!(keeper.unwrap(&one.ciphertext[..index]), Err(ProviderError::Unknown(_))), "cut at {index}");
    }
    assert_eq!(fake.lock().logins, 1, "what is wrong with a wrapped key is not the session's fault");
}

#[test]
fn the_highest_id_wraps_and_all_of_them_unwrap() {
    let fake = Fake::new();
    let (_folder, mut keeper) = keeper(&fake);
    let old = keeper.wrap(DATA_KEY).unwrap();
    // As bytes, 0009 would be less than 01.
    fake.add(&[0, 9]);
    assert_eq!(keeper.wrap(DATA_KEY).unwrap().key_id, old.key_id, "until Status has seen it");
    let id = keeper.key_id().unwrap();
    let new = keeper.wrap(DATA_KEY).unwrap();
    assert!(id.contains("-v9-") && new.key_id == id, "{id}");
    for wrapped in [&old, &new] {
        assert_eq!(keeper.unwrap(&wrapped.ciphertext).unwrap().as_slice(), DATA_KEY);
    }
    // Of two plugins, one may meet what the other has wrapped by a key that it has not seen.
    let (_other, mut other) = self::keeper(&fake);
    other.key_id().unwrap();
    let added = keeper.add_key().unwrap();
    assert!(added.contains("-v10-"), "{added}");
    let wrapped = keeper.wrap(DATA_KEY).unwrap();
    assert_eq!(wrapped.key_id, added);
    assert_eq!(other.unwrap(&wrapped.ciphertext).unwrap().as_slice(), DATA_KEY);
}

#[test]
fn one_more_key_has_the_next_number() {
    for (ids, next) in [
        (&[][..], vec![1]),
        (&[&[1][..], &[0, 2]], vec![3]),
        (&[&[0xff][..]], vec![1, 0]),
        (&[&[1, 0xff][..], &[3]], vec![2, 0]),
        (&[&[][..]], vec![1]),
    ] {
        let fake = Fake(Arc::default());
        ids.iter().for_each(|id| fake.add(id));
        let found: Vec<Found> = fake.lock().keys.iter().map(|(found, _)| found.clone()).collect();
        assert_eq!(super::keys::next_id(&found), next, "{ids:?}");
    }
}

#[test]
fn a_key_that_is_not_as_it_has_to_be_does_not_wrap() {
    type Change = fn(&mut Token);
    let cases: [(Change, &str); 6] = [
        (|token| token.keys.clear(), "there is no such AES key"),
        (|token| token.keys[0].0.extractable = true, "can be read out of its token"),
        (|token| token.keys[0].0.sensitive = false, "can be read out of its token"),
        (|token| token.keys[0].0.length = 16, "has 128 bits"),
        (|token| token.keys[0].0.decrypts = false, "must be allowed to encrypt and to decrypt"),
        (
            |token| {
                let mut twin = token.keys[0].clone();
                twin.0.id = vec![0, 1];
                token.keys.push(twin);
            },
            "2 keys kek have the id",
        ),
    ];
    for (change, words) in cases {
        let fake = Fake::new();
        change(&mut fake.lock());
        let (_folder, mut keeper) = keeper(&fake);
        let error = keeper.wrap(DATA_KEY).unwrap_err().to_string();
        assert!(error.starts_with("the key kek of the token class: ") && error.contains(words), "{error}");
        assert_eq!(keeper.key_id().unwrap_err().to_string(), error);
    }
}

#[test]
fn a_session_that_is_lost_is_replaced_unnoticed() {
    let fake = Fake::new();
    let (_folder, mut keeper) = keeper(&fake);
    let wrapped = keeper.wrap(DATA_KEY).unwrap();
    fake.pass_time();
    fake.lose_sessions();
    assert_eq!(keeper.unwrap(&wrapped.ciphertext).unwrap().as_slice(), DATA_KEY);
    assert_eq!(fake.lock().logins, 2);
    // One that is lost at once is told: logins must not become a loop.
    fake.lose_sessions();
    let error = keeper.wrap(DATA_KEY).unwrap_err();
    assert_eq!(error, ProviderError::Unavailable("the token class: CKR_SESSION_HANDLE_INVALID".to_owned()));
    assert!(keeper.wrap(DATA_KEY).is_ok());
    assert_eq!(fake.lock().logins, 3);
}

#[test]
fn a_token_that_is_away_is_told_and_comes_back() {
    let fake = Fake::new();
    let (_folder, mut keeper) = keeper(&fake);
    let wrapped = keeper.wrap(DATA_KEY).unwrap();
    fake.lock().away = true;
    let error = keeper.wrap(DATA_KEY).unwrap_err().to_string();
    assert!(error.contains("CKR_DEVICE_REMOVED"), "{error}");
    // A crowd of calls is no crowd of logins.
    for _ in 0..100 {
        let error = keeper.unwrap(&wrapped.ciphertext).unwrap_err().to_string();
        assert!(error.contains("CKR_TOKEN_NOT_PRESENT"), "{error}");
    }
    fake.lock().away = false;
    assert!(keeper.wrap(DATA_KEY).is_err(), "not so soon");
    fake.pass_time();
    assert_eq!(keeper.unwrap(&wrapped.ciphertext).unwrap().as_slice(), DATA_KEY);
    assert_eq!(fake.lock().logins, 2);
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let fake = Fake::new();
    let (folder, mut keeper) = keeper(&fake);
    write_pin(folder.path(), "1234-wrong");
    for _ in 0..3 {
        let error = keeper.key_id().unwrap_err();
        assert!(matches!(error, ProviderError::Denied(_)) && !error.to_string().contains("1234"), "{error}");
        fake.pass_time();
    }
    assert_eq!(fake.lock().wrong_pins, 1);
    write_pin(folder.path(), PIN);
    assert!(keeper.key_id().is_ok());
    std::fs::remove_file(folder.path().join("pin")).unwrap();
    fake.lose_sessions();
    fake.pass_time();
    let error = keeper.key_id().unwrap_err().to_string();
    assert!(error.contains("the PIN of the token class") && error.contains("could not be read"), "{error}");
}

#[test]
fn a_key_that_was_made_anew_under_its_name_is_another_one() {
    let fake = Fake::new();
    let (_folder, mut keeper) = keeper(&fake);
    let wrapped = keeper.wrap(DATA_KEY).unwrap();
    fake.lock().keys.clear();
    fake.add(&[1]);
    assert_ne!(keeper.key_id().unwrap(), wrapped.key_id);
    let error = keeper.unwrap(&wrapped.ciphertext).unwrap_err().to_string();
    assert!(error.contains("the key that wrapped this is not in the token"), "{error}");
}

#[test]
fn who_has_gone_is_not_served() {
    let fake = Fake::new();
    let (_folder, keeper) = keeper(&fake);
    let provider = Pkcs11::start(keeper).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let wrapped = runtime.block_on(provider.wrap(DATA_KEY)).unwrap();
    // The token hangs.
    let hangs = fake.lock();
    for _ in 0..50 {
        let waits = async { tokio::time::timeout(Duration::from_millis(1), provider.wrap(DATA_KEY)).await };
        assert!(runtime.block_on(waits).is_err(), "it has answered");
    }
    let before = hangs.calls;
    drop(hangs);
    let unwrapped = runtime.block_on(provider.unwrap(&wrapped.ciphertext)).unwrap();
    assert_eq!(unwrapped.as_slice(), DATA_KEY);
    let calls = fake.lock().calls - before;
    assert!(calls < 5, "{calls} calls for nobody");
}
