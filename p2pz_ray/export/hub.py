"""Sending an export to a data set of the Hugging Face hub, as one commit."""

from p2pz_ray.errors import ConfigError, P2PZError, first_line

_PREFIX = "hf://datasets/"


def name_of(target: str) -> str:
    """OWNER/NAME. Raises ConfigError for an address that names no data set."""
    name = target.removeprefix(_PREFIX).rstrip("/")
    if not target.startswith(_PREFIX) or name.count("/") != 1:
        raise ConfigError(f"--push is {target}: give {_PREFIX}OWNER/NAME.")
    return name


def push(folder: str, target: str) -> str:
    """Send all files of a local folder to `hf://datasets/OWNER/NAME`; returns the commit's address.

    A missing data set is created, private. Raises as `name_of` does, and P2PZError where the hub refuses.
    """
    name = name_of(target)
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, repo_type="dataset", commit_message="Pairs exported by p2pz_ray"
        )
    except Exception as error:  # its client has its own errors, and those of what lies below it
        raise P2PZError(
            f"{target} can't be written ({first_line(error)}): log in with hf auth login, or set HF_TOKEN, and check "
            "the name. The export itself is complete."
        ) from error
    return str(getattr(commit, "commit_url", commit))
