//! The module: a shared library that talks to tokens, and its calls by the crate `cryptoki`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::UserType;
use cryptoki::slot::Slot;
use cryptoki::types::{AuthPin, Ulong};
use zeroize::Zeroizing;

use super::super::super::KmsError;
use super::keys::{Found, HEADER_LENGTH, IV_LENGTH, KEY_LENGTH, Parts};
use super::token::{Module, Session};
use super::{Config, Fault};

/// The bits of AES-GCM's tag.
const TAG_BITS: u64 = 128;

/// A module in memory, and what is wanted of it. It stays there: some do not survive being taken out.
pub(super) struct Library {
    module: Pkcs11,
    token: Option<String>,
    serial: Option<String>,
    label: String,
}

impl Library {
    /// Loads the module. Whoever could write the file would have all that this process has, so it is checked who can.
    ///
    /// # Errors
    /// [`KmsError::Module`].
    pub(super) fn open(config: &Config) -> Result<Self, KmsError> {
        let fail = |reason: String| KmsError::Module { path: config.module.clone(), reason };
        check(&config.module).map_err(fail)?;
        let module = Pkcs11::new(&config.module).map_err(|error| match error {
            Error::LibraryLoading(error) => fail(error.to_string()),
            Error::MissingSymbol(_) => fail("it is no PKCS#11 module".to_owned()),
            error => fail(said(&error)),
        })?;
        let (token, serial, label) = (config.token.clone(), config.serial.clone(), config.key.clone());
        Ok(Self { module, token, serial, label })
    }

    /// The slot that the token is in, with maker and serial number.
    fn slot(&self) -> Result<(Slot, String), Fault> {
        let slots = self.module.get_slots_with_token().map_err(|error| failed(&error))?;
        let (mut fitting, mut others) = (Vec::new(), Vec::new());
        for slot in slots {
            // A slot that cannot be asked has no token that could be used.
            let Ok(info) = self.module.get_token_info(slot) else { continue };
            if !info.token_initialized() {
                continue;
            }
            let fits =
                |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted.trim() == is.trim());
            if fits(&self.token, info.label()) && fits(&self.serial, info.serial_number()) {
                fitting.push((slot, format!("{} {}", info.manufacturer_id().trim(), info.serial_number().trim())));
            } else {
                others.push(info.label().trim().to_owned());
            }
        }
        match (fitting.pop(), fitting.len()) {
            (Some(found), 0) => Ok(found),
            (Some(_), more) => {
                Err(Fault::Failed(format!("{} tokens are called so: name the one by its serial number", more + 1)))
            }
            (None, _) if others.is_empty() => Err(Fault::Failed("the module has no token".to_owned())),
            (None, _) => Err(Fault::Failed(format!("the module has others only: {}", others.join(", ")))),
        }
    }
}

fn check(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(format!("it belongs to the user {}", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(format!("others can write it: its mode is {:o}", metadata.mode() & 0o777));
    }
    Ok(())
}

impl Module for Library {
    type Session = Login;

    fn log_in(&self, pin: &str, to_write: bool) -> Result<Login, Fault> {
        match self.module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(failed(&error)),
        }
        let initialized = Initialized(self.module.clone());
        let (slot, token) = self.slot()?;
        let mechanism = self.module.get_mechanism_info(slot, MechanismType::AES_GCM);
        let able = mechanism.is_ok_and(|able| able.encrypt() && able.decrypt() && able.max_key_size() >= 32);
        if !able {
            return Err(Fault::Failed("it has no AES-256-GCM (CKM_AES_GCM)".to_owned()));
        }
        let open = if to_write { Pkcs11::open_rw_session } else { Pkcs11::open_ro_session };
        let session = open(&self.module, slot).map_err(|error| failed(&error))?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(
                error @ Error::Pkcs11(
                    RvError::PinIncorrect
                    | RvError::PinInvalid
                    | RvError::PinLenRange
                    | RvError::PinExpired
                    | RvError::PinLocked,
                    _,
                ),
            ) => return Err(Fault::Pin(said(&error))),
            Err(error) => return Err(failed(&error)),
        }
        Ok(Login { session, slot, token, label: self.label.clone(), listed: Vec::new(), initialized })
    }
}

/// A module that has been initialised; is told when that is over, so that it looks anew for tokens next time.
struct Initialized(Pkcs11);

impl Drop for Initialized {
    fn drop(&mut self) {
        // A module that fails here is initialised already when it is next.
        let _ = self.0.clone().finalize();
    }
}

/// A session with a user logged in. It is closed before the module is told that all is over.
pub(super) struct Login {
    session: cryptoki::session::Session,
    slot: Slot,
    token: String,
    label: String,
    listed: Vec<ObjectHandle>,
    initialized: Initialized,
}

impl Login {
    fn handle(&self, place: usize) -> Result<ObjectHandle, Fault> {
        self.listed.get(place).copied().ok_or_else(|| Fault::Failed("the key is not there any more".to_owned()))
    }

    fn found(&self, key: ObjectHandle) -> Result<Found, Fault> {
        const WANTED: [AttributeType; 6] = [
            AttributeType::Id,
            AttributeType::ValueLen,
            AttributeType::Encrypt,
            AttributeType::Decrypt,
            AttributeType::Sensitive,
            AttributeType::Extractable,
        ];
        // What a token does not tell counts as what must not be.
        let mut found = Found {
            id: Vec::new(),
            length: 0,
            encrypts: false,
            decrypts: false,
            sensitive: false,
            extractable: true,
            check_value: Vec::new(),
        };
        let mut attributes = self.session.get_attributes(key, &WANTED).map_err(|error| failed(&error))?;
        // Not every token has it, and some fail if they are asked.
        attributes.extend(self.session.get_attributes(key, &[AttributeType::CheckValue]).unwrap_or_default());
        for attribute in attributes {
            match attribute {
                Attribute::Id(id) => found.id = id,
                Attribute::ValueLen(length) => found.length = *length,
                Attribute::Encrypt(is) => found.encrypts = is,
                Attribute::Decrypt(is) => found.decrypts = is,
                Attribute::Sensitive(is) => found.sensitive = is,
                Attribute::Extractable(is) => found.extractable = is,
                Attribute::CheckValue(value) => found.check_value = value,
                _ => {}
            }
        }
        Ok(found)
    }
}

impl Session for Login {
    fn token(&self) -> &str {
        &self.token
    }

    fn keys(&mut self) -> Result<Vec<Found>, Fault> {
        // Sessions of some modules outlive their token.
        let info = self.initialized.0.get_token_info(self.slot).map_err(|error| failed(&error))?;
        if !self.token.ends_with(info.serial_number().trim()) {
            return Err(Fault::Failed("another token has taken its place".to_owned()));
        }
        let wanted = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Label(self.label.clone().into_bytes()),
        ];
        self.listed = self.session.find_objects(&wanted).map_err(|error| failed(&error))?;
        self.listed.iter().map(|key| self.found(*key)).collect()
    }

    fn encrypt(
        &self,
        place: usize,
        iv: &mut [u8; IV_LENGTH],
        header: &[u8; HEADER_LENGTH],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, Fault> {
        let key = self.handle(place)?;
        let parameters = GcmParams::new(iv, header, TAG_BITS.into()).map_err(|error| failed(&error))?;
        self.session.encrypt(&Mechanism::AesGcm(parameters), key, plaintext).map_err(|error| failed(&error))
    }

    fn decrypt(&self, place: usize, wrapped: &Parts<'_>) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let key = self.handle(place)?;
        let mut iv = wrapped.iv;
        let parameters = GcmParams::new(&mut iv, wrapped.header, TAG_BITS.into()).map_err(|error| failed(&error))?;
        match self.session.decrypt(&Mechanism::AesGcm(parameters), key, wrapped.sealed) {
            Ok(plaintext) => Ok(Zeroizing::new(plaintext)),
            Err(error @ Error::Pkcs11(RvError::EncryptedDataInvalid | RvError::EncryptedDataLenRange, _)) => {
                Err(Fault::Data(format!("the wrapped key has been changed ({})", said(&error))))
            }
            Err(error @ Error::Pkcs11(RvError::GeneralError, _)) => {
                // SoftHSM2 says no more than that.
                Err(Fault::Failed(format!("{}: it is ill, or the wrapped key has been changed", said(&error))))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    fn add_key(&self, id: &[u8]) -> Result<(), Fault> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(Ulong::new(KEY_LENGTH)),
            Attribute::Label(self.label.clone().into_bytes()),
            Attribute::Id(id.to_vec()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ];
        let made = self.session.generate_key(&Mechanism::AesKeyGen, &template);
        made.map(drop).map_err(|error| failed(&error))
    }
}

fn failed(error: &Error) -> Fault {
    Fault::Failed(said(error))
}

/// What a module has said, in the standard's words.
fn said(error: &Error) -> String {
    match error {
        Error::Pkcs11(RvError::VendorDefined(code) | RvError::UnknownErrorCode(code), function) => {
            format!("C_{function:?} says {code:#x}")
        }
        Error::Pkcs11(code, function) => format!("C_{function:?} says {}", standard(&format!("{code:?}"))),
        other => other.to_string(),
    }
}

/// `PinIncorrect` as the standard has it: `CKR_PIN_INCORRECT`.
fn standard(name: &str) -> String {
    name.chars().fold("CKR".to_owned(), |mut text, letter| {
        if letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_standards_names() {
        assert_eq!(standard("PinIncorrect"), "CKR_PIN_INCORRECT");
        assert_eq!(standard("SessionHandleInvalid"), "CKR_SESSION_HANDLE_INVALID");
    }

    #[test]
    fn a_module_that_others_can_write_is_not_loaded() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("module.so");
        let open = || {
            let text = format!("module: {}\ntoken: t\nkey: k\npin: {{env: NO_SUCH_PIN}}", path.display());
            Library::open(&serde_yaml::from_str(&text).unwrap()).err().unwrap().to_string()
        };
        assert!(open().contains("No such file"), "{}", open());
        fs::write(&path, "no library").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(open().ends_with("others can write it: its mode is 666"), "{}", open());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(open().contains("cannot be loaded"), "{}", open());
    }
}
