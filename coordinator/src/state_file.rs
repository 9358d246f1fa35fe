//! One small value in one file: written beside, synced, renamed; a checksum tells a damaged one.

use docent_runtime::disk::{Disk, whole};
use docent_types::{Error, Kind, Result, codec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;

/// Bytes of the checksum (blake3) behind the value.
const SUM_BYTES: usize = 32;
/// A larger file is not ours: the catalog and its bookkeeping stay far below.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Replaces the file's value, which needs `format`; durable when this returns.
pub(crate) fn write<T: Serialize>(disk: &dyn Disk, path: &Path, format: u32, value: &T) -> Result<()> {
    let mut bytes = codec::encode_in(format, value).to_vec();
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    whole::replace(disk, path, &bytes)
        .map_err(|error| Error::new(Kind::Internal, format!("cannot write {}: {error}", path.display())))
}

/// The file's value; `None` if there is no such file.
pub(crate) fn read<T: DeserializeOwned>(disk: &dyn Disk, path: &Path, what: &str) -> Result<Option<T>> {
    let failed = |error: io::Error| Error::new(Kind::Internal, format!("cannot read {}: {error}", path.display()));
    let damaged = |why: &str| {
        Error::new(
            Kind::Corrupt,
            format!("{} {why}; restore it, or start this member anew on an empty directory", path.display()),
        )
    };
    let bytes = match whole::read(disk, path, FILE_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(damaged("is too large")),
        read => read.map_err(failed)?,
    };
    let Some(bytes) = bytes else { return Ok(None) };
    let (value, sum) = bytes.split_last_chunk::<SUM_BYTES>().ok_or_else(|| damaged("is too short"))?;
    if blake3::hash(value) != *sum {
        return Err(damaged("fails its checksum"));
    }
    codec::decode(what, value).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use docent_runtime::disk::MemDisk;

    #[test]
    fn a_value_survives_its_file_and_damage_is_told() {
        let disk = MemDisk::default();
        let path = Path::new("/d/value.bin");
        disk.create_dir_all(Path::new("/d")).unwrap();
        assert_eq!(read::<u64>(&disk, path, "value").unwrap(), None);
        for value in [7u64, 8] {
            write(&disk, path, codec::OLDEST.into(), &value).unwrap();
            assert_eq!(read::<u64>(&disk, path, "value").unwrap(), Some(value));
        }
        let file = disk.open(path).unwrap();
        let mut byte = [0];
        file.read_at(&mut byte, 1).unwrap();
        file.write_at(&[byte[0] ^ 1], 1).unwrap();
        let error = read::<u64>(&disk, path, "value").unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.message.contains("value.bin"), "{error}");
    }
}
