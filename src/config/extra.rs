//! What an owner adds to an image: files, words for the kernel, a proxy.

use std::path::PathBuf;

use super::error::{Fault, show};
use super::read::{Report, Section};
use super::{name, place, schema};

/// `[[image.file]]`: a file of the owner's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraFile {
    /// Where it is when the image is built: absolute, or seen from the folder of the `appliance.toml`.
    pub from: PathBuf,
    /// Its absolute place on the appliance, where it belongs to root.
    pub to: PathBuf,
    /// The rights on it, 0 to 0o777. Default 0o644.
    pub mode: u32,
}

/// Where files have no effect, are taken away at each start, or are vaultberry's own.
const CLOSED: [&str; 11] = [
    "/boot",
    "/dev",
    "/etc/vaultberry",
    "/initrd.img",
    "/mnt",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    "/usr/lib/vaultberry",
    "/var/lib/vaultberry",
];

/// What would lead the kernel past root, the unlock or its way back, or open a shell to whoever stands before the appliance.
const CLOSED_ARGUMENTS: [&str; 22] = [
    "1",
    "S",
    "boot",
    "break",
    "emergency",
    "init",
    "initrd",
    "ip",
    "noinitrd",
    "panic",
    "rdinit",
    "rescue",
    "ro",
    "root",
    "rootdelay",
    "rootflags",
    "rootfstype",
    "rootwait",
    "rw",
    "single",
    "systemd.debug_shell",
    "systemd.unit",
];

pub(super) fn files(report: &mut Report<'_>, image: &Section<'_>) -> Vec<ExtraFile> {
    let mut files: Vec<ExtraFile> = Vec::new();
    for section in image.inner(report, "file", &schema::FILE) {
        let from = section.required(report, "from", from);
        let to = section.required(report, "to", to);
        let mode = section.text(report, "mode", 0o644, mode).value;
        let (Some(from), Some(to)) = (from, to) else { continue };
        if files.iter().any(|file| file.to.starts_with(&to) || to.starts_with(&file.to)) {
            let fault = Fault::new(format!("{} is where another file is to be", to.display()), "give each a place of its own");
            report.add(&section.place(), section.path("to"), fault);
            continue;
        }
        files.push(ExtraFile { from, to, mode });
    }
    files
}

fn from(text: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() || text.ends_with('/') || text.chars().any(char::is_control) {
        let hint = "write a file's path, seen from the folder of this file, as in \"files/motd\"";
        return Err(Fault::new(format!("{} is not the path of a file", show(text)), hint));
    }
    Ok(PathBuf::from(text))
}

fn to(text: &str) -> Result<PathBuf, Fault> {
    let path = place::own(text)?;
    match CLOSED.iter().find(|folder| path.starts_with(folder)) {
        None => Ok(path),
        Some(folder) => {
            let message =
                format!("{folder} is no place for files of an image: what is there is made or mounted on the appliance");
            Err(Fault::new(message, "choose another place, as below /etc, /usr/local or /opt"))
        }
    }
}

fn mode(text: &str) -> Result<u32, Fault> {
    let digits = text.len() == 4 && text.starts_with('0') && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    u32::from_str_radix(text, 8).ok().filter(|_| digits).ok_or_else(|| {
        Fault::new(format!("{} are no rights on a file", show(text)), "write \"0600\", \"0644\", \"0755\" or the like")
    })
}

/// A word on the kernel's command line.
pub(super) fn kernel_argument(text: &str) -> Result<String, Fault> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'\\`#".contains(&byte)) {
        let hint = "write each argument as one of the list, without blanks and quotes, as in [\"quiet\", \"loglevel=3\"]";
        return Err(Fault::new(format!("{} is not a single kernel argument", show(text)), hint));
    }
    let key = text.split('=').next().unwrap_or(text);
    if CLOSED_ARGUMENTS.contains(&key) || key.starts_with("vaultberry.") {
        let message = format!("{key} is what the appliance itself tells its kernel, or may not be told");
        return Err(Fault::new(message, "leave it out: it would lead past the unlock, or past the way back to the old kernel"));
    }
    Ok(String::from(text))
}

/// A proxy's address.
pub(super) fn proxy(text: &str) -> Result<String, Fault> {
    let address =
        name::address(text, "http://proxy.example.org:3128", "give the proxy without them; let it know you by address")?;
    let path = address.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    if address.starts_with("https://") || !path.is_empty() {
        let hint = "write host and port, as in \"http://proxy.example.org:3128\"";
        return Err(Fault::new("must be http:// with a host and a port, and no path", hint));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use crate::config::{EXAMPLE, Image, parse};

    fn read(lines: &str) -> Result<Image, String> {
        parse(&EXAMPLE.replace("\n[image]\n", &format!("\n[image]\n{lines}\n")))
            .map(|config| config.image)
            .map_err(|errors| errors.to_string().split_once(": ").unwrap().1.to_owned())
    }

    #[test]
    fn files_arguments_and_a_proxy_are_read() {
        let image = read(
            "kernel_arguments = [\"quiet\", \"usbcore.autosuspend=-1\"]\nproxy = \"http://proxy.lan:3128\"\n\
             [[image.file]]\nfrom = \"motd\"\nto = \"/etc/motd\"\n\
             [[image.file]]\nfrom = \"/srv/x\"\nto = \"/usr/local/bin/x\"\nmode = \"0755\"",
        );
        let image = image.unwrap();
        assert_eq!(image.kernel_arguments, ["quiet", "usbcore.autosuspend=-1"]);
        assert_eq!(image.proxy.as_deref(), Some("http://proxy.lan:3128"));
        let files: Vec<_> = image.files.iter().map(|file| (file.to.to_str().unwrap(), file.mode)).collect();
        assert_eq!(files, [("/etc/motd", 0o644), ("/usr/local/bin/x", 0o755)]);
    }

    #[test]
    fn what_would_do_harm_or_nothing_is_refused() {
        let file = |from: &str, to: &str, mode: &str| format!("[[image.file]]\nfrom = {from:?}\nto = {to:?}\nmode = {mode:?}");
        for (lines, told) in [
            (String::from("kernel_arguments = [\"root=/dev/sda\"]"), "image.kernel_arguments[1]: root is what the appliance"),
            (
                String::from("kernel_arguments = [\"quiet splash\"]"),
                "image.kernel_arguments[1]: \"quiet splash\" is not a single",
            ),
            (String::from("kernel_arguments = [\"break\"]"), "image.kernel_arguments[1]: break is what the appliance"),
            (String::from("proxy = \"https://proxy.lan\""), "image.proxy: must be http:// with a host and a port"),
            (String::from("proxy = \"http://me:x@proxy.lan\""), "image.proxy: must not hold a user name or password"),
            (file("", "/etc/motd", "0644"), "image.file[1].from: \"\" is not the path of a file"),
            (file("motd", "etc/motd", "0644"), "image.file[1].to: \"etc/motd\" is not an absolute path"),
            (file("motd", "/boot/motd", "0644"), "image.file[1].to: /boot is no place for files of an image"),
            (file("motd", "/etc/motd", "644"), "image.file[1].mode: \"644\" are no rights on a file"),
            (file("motd", "/etc/motd", "4755"), "image.file[1].mode: \"4755\" are no rights on a file"),
            (
                format!("{}\n{}", file("a", "/etc/motd", "0644"), file("b", "/etc/motd", "0600")),
                "image.file[2].to: /etc/motd is where another file is to be",
            ),
        ] {
            let error = read(&lines).unwrap_err();
            assert!(error.starts_with(told), "{lines}: {error}");
            assert!(error.contains("\n  hint: "), "{error}");
        }
    }
}
