//! Key slots of an encrypted image: one more passphrase, or fewer.
//! Called by the driver, drained. Invariants: a slot says that it is in use only after its key
//! material is durable, and its material is wiped only after it durably says no more; unless told
//! to, the last slot is never given up. Refusals have QEMU's words.
//! Spec: qcow2 "Full disk encryption header pointer", LUKS "Key slots". Not here: slots themselves
//! (`kit/crypto/luks`).

use std::sync::Arc;
use std::time::Duration;

use block_core::driver::KeySlotChange;
use block_core::secret::Secret;
use block_core::{Error, Result};

use super::crypt::Crypt;
use super::error::ImageError;
use super::image::Image;
use super::read::usize_of;
use crate::kit::addr::HostOffset;
use crate::kit::crypto::luks::{Header, LuksError};
use crate::kit::crypto::{KeyBytes, random};
use crate::kit::image_file::{ImageFile, Surroundings};

impl Image {
    /// Changes key slots, durably.
    ///
    /// # Errors
    /// `InvalidOption` with what does not fit; `Encrypted` without the key; errors of the file.
    pub(super) async fn change_key_slots<E: Surroundings>(
        &self,
        env: &E,
        change: KeySlotChange,
    ) -> Result<()> {
        let Some(crypt) = &self.crypt else {
            return refuse("Can't amend encryption options - encryption not present");
        };
        let Some((header, place)) = crypt.luks() else {
            return refuse("Only LUKS encryption options can be amended");
        };
        self.need_key()?;
        self.first_write(env).await?;
        let slots = Slots {
            image: self,
            env,
            crypt,
            place,
            header,
        };
        match change {
            KeySlotChange::Add {
                slot,
                passphrase,
                iter_time,
                force,
            } => slots.add(slot, passphrase, iter_time, force).await,
            KeySlotChange::Erase {
                slot,
                passphrase,
                force,
            } => slots.erase(slot, passphrase, force).await,
        }
    }
}

/// The slots of an image, while they change.
struct Slots<'a, E> {
    image: &'a Image,
    env: &'a E,
    crypt: &'a Crypt,
    /// Where the LUKS header is.
    place: HostOffset,
    header: Arc<Header>,
}

impl<E: Surroundings> Slots<'_, E> {
    async fn add(
        mut self,
        slot: Option<u64>,
        passphrase: Secret,
        iter_time: Duration,
        force: bool,
    ) -> Result<()> {
        let free = self.header.slots.iter().position(|s| s.active.is_none());
        let index = match (slot, free) {
            (Some(slot), _) => self.checked(slot)?,
            (None, Some(free)) => free,
            (None, None) => return refuse("Can't add a keyslot - all keyslots are in use"),
        };
        if self.is_active(index) {
            if !force {
                return refuse(format!(
                    "Refusing to overwrite active keyslot {index} - please erase it first"
                ));
            }
            self.disable(index).await?;
        }
        let key = self.crypt.key().ok_or_else(|| Error::Encrypted {
            node: self.image.node.clone(),
        })?;
        let header = Arc::clone(&self.header);
        let wrapped = self
            .env
            .blocking(move || header.wrap(&key, passphrase.bytes(), iter_time));
        let (active, material) = wrapped.await?.map_err(|source| self.luks(source))?;
        self.write_material(index, &material).await?;
        let next = self.header.with_slot(index, Some(active));
        let Some(bytes) = next.slot_bytes(index) else {
            return Ok(());
        };
        // The slot lies across a sector's end, perhaps: its first word decides, alone.
        let at = self.place.plus(bytes.offset);
        self.write(at.plus(4), &bytes.rest).await?;
        self.write(at, &bytes.active).await?;
        self.crypt.set_luks(Arc::new(next));
        Ok(())
    }

    async fn erase(
        mut self,
        slot: Option<u64>,
        passphrase: Option<Secret>,
        force: bool,
    ) -> Result<()> {
        let in_use = self.header.slots.iter().filter(|s| s.active.is_some());
        let in_use = in_use.count();
        let erased = match (slot, &passphrase) {
            (Some(slot), passphrase) => {
                let index = self.checked(slot)?;
                if let Some(passphrase) = passphrase
                    && !self.opens(index, passphrase).await?
                {
                    return refuse(format!(
                        "Given keyslot {index} doesn't contain the given old password for erase \
                         operation"
                    ));
                }
                if !force && !self.is_active(index) {
                    return refuse(format!(
                        "Given keyslot {index} is already erased (inactive) "
                    ));
                }
                if !force && in_use == 1 {
                    return refuse(format!(
                        "Attempt to erase the only active keyslot {index} which will erase all \
                         the data in the image irreversibly - refusing operation"
                    ));
                }
                vec![index]
            }
            (None, Some(passphrase)) => {
                let mut opened = Vec::new();
                for index in 0..self.header.slots.len() {
                    if self.opens(index, passphrase).await? {
                        opened.push(index);
                    }
                }
                if opened.is_empty() {
                    return refuse("No keyslots match given (old) password for erase operation");
                }
                if !force && opened.len() == in_use {
                    return refuse(
                        "All the active keyslots match the (old) password that was given and \
                         erasing them will erase all the data in the image irreversibly - \
                         refusing operation",
                    );
                }
                opened
            }
            (None, None) => {
                return refuse(
                    "To erase keyslot(s), either explicit keyslot index or the password currently \
                     contained in them must be given",
                );
            }
        };
        for index in erased {
            self.disable(index).await?;
        }
        Ok(())
    }

    fn checked(&self, slot: u64) -> Result<usize> {
        let count = self.header.slots.len();
        match usize::try_from(slot) {
            Ok(index) if index < count => Ok(index),
            Ok(_) | Err(_) => refuse(format!(
                "Invalid keyslot {slot} specified, must be between 0 and {}",
                count.saturating_sub(1)
            )),
        }
    }

    fn is_active(&self, index: usize) -> bool {
        let slot = self.header.slots.get(index);
        slot.is_some_and(|slot| slot.active.is_some())
    }

    /// Whether a passphrase opens a slot.
    async fn opens(&self, index: usize, passphrase: &Secret) -> Result<bool> {
        let Some(slot) = self.header.slots.get(index) else {
            return Ok(false);
        };
        let Some(active) = slot.active.clone() else {
            return Ok(false);
        };
        let range = self.header.material(slot);
        let len = usize_of(range.end - range.start);
        let material = self.env.file();
        let material = material.read_bytes(self.place.plus(range.start).0, len);
        let material = KeyBytes::new(material.await?.to_vec());
        let (header, passphrase) = (Arc::clone(&self.header), passphrase.clone());
        let opened = self
            .env
            .blocking(move || header.key(&active, passphrase.bytes(), material));
        let opened = opened.await?.map_err(|source| self.luks(source))?;
        Ok(opened.is_some())
    }

    /// Takes a slot out of use, then wipes its key material.
    async fn disable(&mut self, index: usize) -> Result<()> {
        let next = Arc::new(self.header.with_slot(index, None));
        let Some(bytes) = next.slot_bytes(index) else {
            return Ok(());
        };
        let at = self.place.plus(bytes.offset);
        self.write(at, &bytes.active).await?;
        self.crypt.set_luks(Arc::clone(&next));
        self.header = next;
        let range = self.header.slots.get(index);
        let range = range.map_or(0..0, |slot| self.header.material(slot));
        let mut noise = KeyBytes::new(vec![0; usize_of(range.end - range.start)]);
        random(&mut noise).map_err(|source| self.luks(LuksError::Cipher(source)))?;
        self.write_material(index, &noise).await?;
        self.write(at.plus(4), &bytes.rest).await
    }

    async fn write_material(&self, index: usize, material: &KeyBytes) -> Result<()> {
        let Some(slot) = self.header.slots.get(index) else {
            return Ok(());
        };
        self.write(self.place.plus(slot.offset()), material).await
    }

    /// Writes bytes, durably.
    async fn write(&self, at: HostOffset, bytes: &[u8]) -> Result<()> {
        self.env.file().write_bytes(at.0, bytes).await?;
        self.env.file().flush().await
    }

    fn luks(&self, source: LuksError) -> Error {
        self.image.error(ImageError::Luks { source })
    }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::invalid("encrypt", reason))
}
