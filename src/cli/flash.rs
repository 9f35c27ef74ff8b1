//! `vaultberry flash`.

use std::path::PathBuf;

use clap::Args;

/// What `vaultberry flash` takes.
#[derive(Args, Debug)]
pub struct Flash {
    /// The image: .img, .img.zst or .img.xz
    pub image: PathBuf,
    /// The card or stick, as /dev/sdX
    pub device: PathBuf,
    /// Write over this device, the same one, without a question, and though it isn't one that can be taken out
    #[arg(long, value_name = "DEVICE")]
    pub yes_really: Option<PathBuf>,
    /// Write zeros over all that the image leaves free, though the card can discard: takes as long as the card is large
    #[arg(long)]
    pub overwrite: bool,
    /// Encrypt root anew, so that this card has a volume key of its own; stick and recovery passphrase stay the image's
    #[arg(long)]
    pub fresh_key: bool,
    /// Where the build of the image left its keys
    #[arg(long, value_name = "DIR", default_value = "secrets", requires = "fresh_key")]
    pub secrets: PathBuf,
}
