"""Command `render_street`: labelled pictures of the rendered street, to train on with others."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from bisenet_ros.command_line import ending_in_a_line, make_folder, positive
from bisenet_ros.image_files import write_image
from bisenet_ros.resources import user_path
from bisenet_ros.segmentation.device import naming_full_memory
from bisenet_ros.segmentation.labels import NO_DECISION, load_label_set
from bisenet_ros.tools.street import StreetDrive
from bisenet_ros.tools.street.camera import DISTORTION_MODELS


def render_street(output: Path, frames: int, size: tuple[int, int], first_seed: int = 1) -> None:
    """
    Write `images/*.png` and `labels/*.png` (CamVid's class ids), each of another street.

    Every second frame is taken by the demo's camera, the others by one with a random lens, 0.4 to
    1.7 m above the ground and looking 0 to 25 degrees down.

    :param size: (width, height) in pixels.
    :param first_seed: seed of the first street; better not 0, the street of the demo.
    """
    for folder in ('images', 'labels'):
        make_folder(output / folder)
    ignore_id = load_label_set('camvid').ignore_id
    for seed in tqdm(range(first_seed, first_seed + frames), desc='rendering'):
        random = np.random.default_rng(seed)
        model = 'plumb_bob' if seed % 2 else str(random.choice(DISTORTION_MODELS))
        drive = StreetDrive(seed, size, distortion_model=model)
        if seed % 2 == 0:
            drive.camera_xyz = (0.25, 0.0, random.uniform(0.4, 1.7))
            drive.camera_rpy = (0.0, np.radians(random.uniform(0, 25)), 0.0)
        frame = drive[int(random.integers(len(drive)))]
        labels = np.where(frame.class_ids == NO_DECISION, ignore_id, frame.class_ids)
        # Labels first: an image without any is an error to training.
        write_image(output / 'labels' / f'street{seed:04}.png', labels.astype(np.uint8))
        write_image(output / 'images' / f'street{seed:04}.png',
                    cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog='render_street', description=__doc__)
    parser.add_argument('output', type=user_path, help='folder to write images/ and labels/ into')
    parser.add_argument('--frames', type=positive(int), default=80)
    parser.add_argument('--size', type=positive(int), nargs=2, default=(480, 360),
                        metavar=('WIDTH', 'HEIGHT'))
    parser.add_argument('--first-seed', type=int, default=1, help="0 is the demo's street")
    arguments = parser.parse_args(argv)
    with ending_in_a_line('render_street'), naming_full_memory('give a smaller --size'):
        render_street(arguments.output, arguments.frames, tuple(arguments.size),
                      arguments.first_seed)


if __name__ == '__main__':
    main()
