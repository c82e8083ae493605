"""Which files are images."""

from pathlib import Path

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.ppm', '.tif', '.tiff', '.webp')


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder by their endings, sorted by name; hidden files are none."""
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.'))
