//! Files that a killed process or a lost disk left unfinished: made whole as far as they go, or removed.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::file::{put_head, wav_head};
use super::flac::{self, FRAME_LEN_MAX, HEAD_LEN};
use super::name::{self, Name};
use super::{Format, Order};

/// Of a WAV file.
const WAV_HEAD_LEN: usize = 44;

/// Mends what there is of the station's, and says so.
pub(super) fn mend(order: &Order) -> io::Result<()> {
    for name in name::list(&order.directory, &order.station, false)? {
        let path = name.path(&order.directory);
        match mend_one(&order.directory, &name)? {
            Some(0) => tracing::info!("{} held no sound yet and was removed", path.display()),
            Some(n_samples) => tracing::info!(
                "{} was left unfinished: it is whole now, with {n_samples} samples",
                path.display()
            ),
            None => tracing::info!("{} is being written by another", path.display()),
        }
    }
    Ok(())
}

/// How many samples it has; `None` if it is none of ours to touch.
fn mend_one(directory: &Path, name: &Name) -> io::Result<Option<u64>> {
    let path = name.path(directory);
    let mut file = File::options().read(true).write(true).open(&path)?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        return Ok(None);
    }
    let sound = match name.format() {
        Format::Wav => wav_sound(&mut file),
        Format::Flac => flac_sound(&mut file),
    };
    let (head, len, n_samples) = match sound {
        Ok(sound) => sound,
        // Too short for its head: it holds nothing.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => (Vec::new(), 0, 0),
        Err(error) => return Err(error),
    };
    if n_samples == 0 {
        fs::remove_file(path)?;
        return Ok(Some(0));
    }
    file.set_len(len)?;
    put_head(&mut file, &head)?;
    file.sync_all()?;
    fs::rename(path, name.whole(n_samples).path(directory))?;
    Ok(Some(n_samples))
}

/// The head that a file should have, its length, and how many samples that is.
type Sound = (Vec<u8>, u64, u64);

fn wav_sound(file: &mut File) -> io::Result<Sound> {
    let mut head = [0; WAV_HEAD_LEN];
    file.read_exact(&mut head)?;
    let rate_hz = u32::from_le_bytes(head[24..28].try_into().expect("four bytes"));
    let n_samples = (file.metadata()?.len() - WAV_HEAD_LEN as u64) / 2;
    let len = WAV_HEAD_LEN as u64 + 2 * n_samples;
    Ok((wav_head(rate_hz, n_samples), len, n_samples))
}

fn flac_sound(file: &mut File) -> io::Result<Sound> {
    let mut head = [0; HEAD_LEN];
    file.read_exact(&mut head)?;
    let (mut len, mut n_samples) = (HEAD_LEN as u64, 0);
    let mut bytes = vec![0; 2 * FRAME_LEN_MAX];
    for number in 0.. {
        let n_read = read_at(file, &mut bytes, len)?;
        let Some((frame_len, n)) = flac::frame(&bytes[..n_read], number) else {
            break;
        };
        len += frame_len as u64;
        n_samples += n;
    }
    flac::correct(&mut head, n_samples);
    Ok((head.into(), len, n_samples))
}

/// As much as there is.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut n_read = 0;
    while n_read < bytes.len() {
        match file.read_at(&mut bytes[n_read..], offset + n_read as u64)? {
            0 => break,
            n => n_read += n,
        }
    }
    Ok(n_read)
}
