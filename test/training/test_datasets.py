"""Data sets: what is read, and how each fault is named before training starts."""

import struct
import threading
import time
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from bisenet_ros.segmentation.frame import SegmentationRequest
from bisenet_ros.segmentation.host_pipeline import HostPipeline
from bisenet_ros.segmentation.labels import load_label_set
from bisenet_ros.training import datasets, labelled_image
from bisenet_ros.training.augmentation import IGNORED
from bisenet_ros.training.datasets import (
    DatasetError,
    find_files,
    load_dataset,
)

CAMVID = load_label_set('camvid')


def load(root, layout='camvid', size=(96, 64), **options):
    return load_dataset([find_files(layout, root, **options)], CAMVID, size)


def stems(dataset):
    return [file.stem for file in dataset.files]


def test_camvid_layout(camvid_like):
    dataset = load(camvid_like)
    assert stems(dataset) == ['A_0', 'A_2', 'A_4', 'B_1', 'B_3', 'B_5']
    assert dataset.images.shape == (6, 3, 64, 96) and dataset.images.dtype == torch.uint8
    image = cv2.imread(str(camvid_like / 'train' / 'B_3.png'))[..., ::-1]  # RGB
    np.testing.assert_array_equal(dataset.images[4].permute(1, 2, 0), image)
    labels = cv2.imread(str(camvid_like / 'trainannot' / 'B_3.png'), cv2.IMREAD_UNCHANGED)
    expected = np.where(labels == 11, IGNORED, labels)
    np.testing.assert_array_equal(dataset.labels[4], expected)


def test_sequences_are_filtered_by_name(camvid_like):
    assert stems(load(camvid_like, sequences=('B',))) == ['B_1', 'B_3', 'B_5']
    for sequences, told in (('C',), 'C'), (('B', 'C', 'A', 'D'), 'C or D'):
        with pytest.raises(DatasetError, match=rf'no images that start with {told} \(layout'):
            load(camvid_like, sequences=sequences)


def test_labels_are_resized_without_mixing_classes(camvid_like):
    dataset = load(camvid_like, size=(61, 37))
    assert dataset.images.shape == (6, 3, 37, 61)
    assert set(dataset.labels.unique().tolist()) <= {0, 1, 3, IGNORED}


def test_labels_stay_where_the_image_is_when_both_are_reduced(tmp_path):
    """An edge between two classes at 4/9 of the width stays there when the size is a third."""
    labels = np.zeros((90, 90), np.uint8)
    labels[:, 40:] = 1
    for folder, pixels in (('images', labels * 255), ('labels', labels)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / 'a.png'), pixels)
    dataset = load(tmp_path, layout='folders', size=(30, 30))
    np.testing.assert_array_equal(dataset.labels[0], dataset.images[0, 0] > 127)


def test_a_squeezed_image_is_told(camvid_like, caplog):
    load(camvid_like, size=(48, 32))
    assert not caplog.text
    load(camvid_like, size=(48, 48))
    assert '6 of 6 images are squeezed to 48x48 (A_0.png has 96x64)' in caplog.text


def test_one_squeezed_image_among_others_is_told(camvid_like, caplog):
    for folder in ('train', 'trainannot'):
        path = str(camvid_like / folder / 'A_2.png')
        assert cv2.imwrite(path, cv2.imread(path, cv2.IMREAD_UNCHANGED)[:, :48])
    load(camvid_like, size=(96, 64))
    assert '1 of 6 images are squeezed to 96x64 (A_2.png has 48x64)' in caplog.text


def test_images_and_labels_that_cannot_be_told_apart_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((64, 96), np.uint8))
    with pytest.raises(DatasetError, match='a.png is image and label at once'):
        load(tmp_path, layout='folders', images='.', labels='.')
    (tmp_path / 'labels').mkdir()
    for name in ('labels/a.png', 'a.jpg'):
        cv2.imwrite(str(tmp_path / name), np.zeros((64, 96), np.uint8))
    with pytest.raises(DatasetError, match='a.jpg and .*a.png have the same label'):
        load(tmp_path, layout='folders', images='.')


def test_labels_that_all_ignore_every_pixel_are_refused(tmp_path):
    for folder, value in (('images', 0), ('labels', CAMVID.ignore_id)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / 'a.png'), np.full((64, 96), value, np.uint8))
    with pytest.raises(DatasetError, match='every pixel of its labels is ignored .*a.png'):
        load(tmp_path, layout='folders')


def test_labels_that_ignore_every_pixel_are_reported(camvid_like, caplog):
    load(camvid_like)
    assert not caplog.text
    for name in 'A_2', 'B_3':
        cv2.imwrite(str(camvid_like / 'trainannot' / f'{name}.png'),
                    np.full((64, 96), CAMVID.ignore_id, np.uint8))
    load(camvid_like)
    assert f'{camvid_like}: 2 of 6 labels ignore every pixel, such as A_2.png' in caplog.text


def test_a_home_folder_is_found(camvid_like, monkeypatch):
    monkeypatch.setenv('HOME', str(camvid_like.parent))
    assert len(load('~/camvid_like')) == 6
    with pytest.raises(DatasetError, match='no folder ~no_such_user/camvid_like/train'):
        load('~no_such_user/camvid_like')


def test_images_are_resized_as_the_node_does(camvid_like):
    image = cv2.imread(str(camvid_like / 'train' / 'A_0.png'))
    request = SegmentationRequest(image, (48, 24), (96, 64))
    prepared = HostPipeline(None, None).prepare(request, bgr=True)
    resized = load(camvid_like, size=(48, 24)).images[0].permute(1, 2, 0)
    np.testing.assert_array_equal(resized, prepared[0])


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    # From the table of cityscapesScripts: labelId -> trainId.
    known = {7: 0, 8: 1, 11: 2, 17: 5, 24: 11, 33: 18, 4: IGNORED, 29: IGNORED, 0: IGNORED}
    images = tmp_path / 'leftImg8bit' / 'val' / 'ulm'
    labels = tmp_path / 'gtFine' / 'val' / 'ulm'
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    values = np.array([list(known)] * 4, np.uint8)
    cv2.imwrite(str(images / 'ulm_0_leftImg8bit.png'), np.zeros((*values.shape, 3), np.uint8))
    cv2.imwrite(str(labels / 'ulm_0_gtFine_labelIds.png'), values)
    files = find_files('cityscapes', tmp_path, split='val')
    dataset = load_dataset([files], load_label_set('cityscapes'), (len(known), 4))
    assert dataset.labels[0, 0].tolist() == list(known.values())


def test_folders(tmp_path):
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'masks').mkdir()
    cv2.imwrite(str(tmp_path / 'photos' / 'a.jpg'), np.zeros((64, 96, 3), np.uint8))
    cv2.imwrite(str(tmp_path / 'masks' / 'a.png'), np.full((64, 96), 4, np.uint8))
    dataset = load(tmp_path, layout='folders', images='photos', labels='masks')
    assert stems(dataset) == ['a']
    assert (dataset.labels == 4).all()


@pytest.mark.parametrize('layout, places, told', [
    ('folders', {'split': 'val'}, 'layout folders has no split, but images, labels'),
    ('camvid', {'images': 'photos', 'labels': 'masks'},
     'camvid has no images, labels, but split')])
def test_a_name_that_the_layout_does_not_have_is_refused(camvid_like, layout, places, told):
    """If it were ignored, a run could train and measure on the same pictures unnoticed."""
    with pytest.raises(DatasetError, match=told):
        load(camvid_like, layout=layout, **places)


def test_an_unlabelled_image_is_named(camvid_like):
    (camvid_like / 'trainannot' / 'A_2.png').unlink()
    with pytest.raises(DatasetError, match=r'train/A_2\.png has no label'):
        load(camvid_like)


def test_a_wrong_value_is_named(camvid_like):
    path = camvid_like / 'trainannot' / 'B_1.png'
    labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    labels[5, 5], labels[6, 6] = 77, 12
    cv2.imwrite(str(path), labels)
    with pytest.raises(DatasetError, match=r'B_1\.png holds \[12, 77\]'):
        load(camvid_like)


def test_no_thread_reads_on_after_an_error(camvid_like, monkeypatch):
    """A thread that still reads would abort the process, which exits because of the error."""
    def read_slowly(path):
        time.sleep(0.2)
        return cv2.imread(str(path))

    before = threading.active_count()
    (camvid_like / 'train' / 'A_0.png').write_bytes(b'nothing')
    monkeypatch.setattr(labelled_image, 'read_image', read_slowly)
    with pytest.raises(DatasetError, match='A_0.png'):
        load(camvid_like)
    assert threading.active_count() == before


def test_sizes_that_differ_are_named(camvid_like):
    cv2.imwrite(str(camvid_like / 'trainannot' / 'B_1.png'), np.zeros((64, 95), np.uint8))
    with pytest.raises(DatasetError, match=r'B_1\.png is 95x64 pixels, its image 96x64: give'):
        load(camvid_like)


def write_png(path, bits, color_type, palette, row):
    """Write a PNG of one row of pixels, given as packed bytes."""
    width = 8 * len(row) // bits
    chunks = [(b'IHDR', struct.pack('>2I5B', width, 1, bits, color_type, 0, 0, 0)),
              (b'PLTE', palette), (b'IDAT', zlib.compress(b'\x00' + row)), (b'IEND', b'')]
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks if data or name == b'IEND'))
    return width


@pytest.fixture
def one_pair(tmp_path):
    """Write an image in the layout `folders`; return its path, and where its label is to be."""
    for folder in 'images', 'labels':
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / 'images' / 'a.png'), np.zeros((64, 96, 3), np.uint8))
    return tmp_path / 'images' / 'a.png', tmp_path / 'labels' / 'a.png'


# A row of pixels in each bit depth; where more than the ids 0 and 1 fit in, it has a larger one.
@pytest.mark.parametrize('bits, row, ids', [
    (1, b'\x40', [0, 1, 0, 0, 0, 0, 0, 0]), (2, b'\x1c', [0, 1, 3, 0]), (4, b'\x01', [0, 1]),
    (8, b'\x00\x01\x0a', [0, 1, 10])])
def test_a_palettes_indices_are_the_labels(tmp_path, one_pair, bits, row, ids):
    """Whatever its colours are: labels of VOC and labelme2voc are like this."""
    image, label = one_pair
    palette = bytes([200, 0, 0, 0, 0, 0] + 10 * [0, 128, 7])[:3 * min(11, 2 ** bits)]
    width = write_png(label, bits, 3, palette, row)
    cv2.imwrite(str(image), np.zeros((1, width, 3), np.uint8))
    dataset = load(tmp_path, layout='folders', size=(width, 1))
    assert dataset.labels.flatten().tolist() == ids


def write_with_palettes(image, label, palettes):
    """Write, for each name, an image and a label with that palette and the values 0, 1 and 11."""
    for name, palette in palettes.items():
        width = write_png(label.with_stem(name), 8, 3, bytes(palette), b'\x00\x01\x0b')
        cv2.imwrite(str(image.with_stem(name)), np.full((1, width), 99, np.uint8))


def test_palettes_that_differ_are_refused(tmp_path, one_pair):
    """Colour masks that were quantised: each file numbers the colours in its own order."""
    road, sky = [128, 64, 128], [70, 130, 180]
    write_with_palettes(*one_pair, {'a': road + sky, 'b': sky + road})
    with pytest.raises(DatasetError, match=r'labels/b\.png has the colour \(70, 130, 180\) for '
                       r'index 0 of its palette, .*labels/a\.png \(128, 64, 128\): .* into ids'):
        load(tmp_path, layout='folders', size=(3, 1))


def test_palettes_that_differ_in_unused_colours_are_accepted(tmp_path, one_pair):
    """Some writers cut off the palette of VOC, even before the colour of `ignore_id`."""
    voc, void = [0, 0, 0, 128, 0, 0, 0, 128, 0], [224, 224, 192]
    write_with_palettes(*one_pair, {'a': voc, 'b': voc[:6], 'c': voc[:6] + 9 * [1, 2, 3] + void})
    cv2.imwrite(str(one_pair[0].with_stem('d')), np.full((1, 3), 99, np.uint8))
    cv2.imwrite(str(one_pair[1].with_stem('d')), np.array([[0, 1, 11]], np.uint8))  # no palette
    dataset = load(tmp_path, layout='folders', size=(3, 1))
    assert dataset.labels.flatten(1).tolist() == 4 * [[0, 1, IGNORED]]


@pytest.mark.parametrize('pixels, found', [
    (np.zeros((64, 96, 3), np.uint8), 'has colours'),
    (np.zeros((64, 96, 4), np.uint8), 'has colours'),
    (np.zeros((64, 96), np.uint16), r'has 16 bit\(s\) a pixel')])
def test_a_label_of_another_kind_is_refused(tmp_path, one_pair, pixels, found):
    cv2.imwrite(str(one_pair[1]), pixels)
    with pytest.raises(DatasetError, match=rf'a\.png {found}: write class ids'):
        load(tmp_path, layout='folders')


def test_a_label_of_one_bit_without_a_palette_is_refused(tmp_path, one_pair):
    """Image readers turn its 0 and 1 into 0 and 255."""
    write_png(one_pair[1], 1, 0, b'', b'\x40')
    with pytest.raises(DatasetError, match=r'a\.png has 1 bit\(s\) a pixel: write class ids'):
        load(tmp_path, layout='folders')


def test_a_label_that_is_no_png_is_refused(tmp_path, one_pair):
    one_pair[1].write_bytes(cv2.imencode('.jpg', np.zeros((64, 96), np.uint8))[1].tobytes())
    with pytest.raises(DatasetError, match=r'labels/a\.png cannot be read as a PNG'):
        load(tmp_path, layout='folders')


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.bmp', '.tiff', '.webp'])
def test_an_image_that_is_cut_off_is_refused(tmp_path, one_pair, suffix):
    """A full disk leaves such files; OpenCV reads such a JPEG without complaint."""
    image, label = one_pair
    image.unlink()
    cv2.imwrite(str(label), np.zeros((64, 96), np.uint8))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    content = cv2.imencode(suffix, pixels)[1].tobytes()
    image.with_suffix(suffix).write_bytes(content)
    assert len(load(tmp_path, layout='folders')) == 1
    image.with_suffix(suffix).write_bytes(content[:len(content) * 3 // 4])
    with pytest.raises(ValueError, match=rf'images/a\{suffix} cannot be read'):
        load(tmp_path, layout='folders')


@pytest.mark.parametrize('folder', ['train', 'trainannot'])
def test_an_image_of_more_pixels_than_pillow_reads_is_refused(camvid_like, monkeypatch, folder):
    cv2.imwrite(str(camvid_like / folder / 'A_0.png'), np.zeros((200, 200), np.uint8))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10000)
    with pytest.raises(DatasetError, match=rf'{folder}/A_0\.png has more than 20000 pixels'):
        load(camvid_like)


def test_a_label_that_is_cut_off_is_refused(camvid_like):
    path = camvid_like / 'trainannot' / 'B_1.png'
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=r'trainannot/B_1\.png cannot be read'):
        load(camvid_like)


@pytest.mark.parametrize('suffix, orientation', [
    ('.png', 6), ('.tif', 3), ('.tif', 6), ('.jpg', 3), ('.jpg', 6)])
def test_images_that_exif_rotates_are_refused(tmp_path, one_pair, suffix, orientation):
    image, label = one_pair
    image.unlink()
    image = image.with_suffix(suffix)
    cv2.imwrite(str(label), np.zeros((64, 96), np.uint8))
    exif = Image.Exif()
    for value in (0, 1, orientation):  # 0 has no meaning, 1 is upright
        exif[ExifTags.Base.Orientation] = value
        Image.new('RGB', (96, 64)).save(image, exif=exif)
        if value < 2:
            assert len(load(tmp_path, layout='folders')) == 1
    with pytest.raises(DatasetError, match=f'a{suffix} is stored turned .*EXIF'):
        load(tmp_path, layout='folders')


def test_images_of_every_kind_are_read_and_hidden_files_are_not(tmp_path, one_pair):
    image, label = one_pair
    pixels = cv2.imread(str(image))
    for stem, suffix in enumerate(['.webp', '.bmp', '.TIF', '.ppm', '.jpeg']):
        assert cv2.imwrite(str(image.with_name(f'{stem}{suffix}')), pixels)
    (image.parent / '._a.png').write_bytes(b'what a Mac leaves beside a copied file')
    for stem in 'a01234':
        cv2.imwrite(str(label.with_stem(stem)), np.zeros((64, 96), np.uint8))
    assert stems(load(tmp_path, layout='folders')) == list('01234a')


def test_files_that_are_not_read_are_told(camvid_like, caplog):
    (camvid_like / 'train' / '.thumbnails').touch()
    load(camvid_like)
    assert not caplog.text
    for name in ('a.heic', 'b.JFIF'):
        (camvid_like / 'train' / name).touch()
    (camvid_like / 'train' / 'more').mkdir()
    load(camvid_like)
    assert 'train: 3 files or folders in it are not read, such as a.heic, b.JFIF, more' \
        in caplog.text


def test_labels_without_an_image_are_told(camvid_like, caplog):
    load(camvid_like, sequences=('B',))
    assert 'no image' not in caplog.text, 'the others are left out on purpose'
    for name in 'A_2', 'B_3':
        (camvid_like / 'train' / f'{name}.png').unlink()
    load(camvid_like)
    assert (f'{camvid_like}/trainannot: 2 labels in it have no image and are not used, '
            'such as A_2.png') in caplog.text


def test_a_folder_of_labels_among_the_images_is_not_told(tmp_path, caplog):
    (tmp_path / 'labels').mkdir()
    cv2.imwrite(str(tmp_path / 'a.jpg'), np.full((64, 96, 3), 200, np.uint8))
    cv2.imwrite(str(tmp_path / 'labels' / 'a.png'), np.zeros((64, 96), np.uint8))
    load(tmp_path, layout='folders', images='.')
    assert not caplog.text


def test_images_of_12_bits_stored_as_16_are_told(tmp_path, one_pair, caplog):
    """Only the upper 8 of 16 bits are read, which leaves these images nearly black."""
    image, label = one_pair
    for stem, brightest in ('a', 2000), ('b', 4095), ('c', 3000):
        cv2.imwrite(str(image.with_stem(stem)), np.full((64, 96), brightest, np.uint16))
        cv2.imwrite(str(label.with_stem(stem)), np.zeros((64, 96), np.uint8))
    load(tmp_path, layout='folders')
    assert 'none is brighter than b.png, which reaches 15 of 255' in caplog.text
    caplog.clear()
    cv2.imwrite(str(image), np.full((64, 96), 65535, np.uint16))
    load(tmp_path, layout='folders')
    assert not caplog.text


def test_a_label_whose_ending_is_in_capitals_is_told(tmp_path, one_pair):
    cv2.imwrite(str(one_pair[1].with_suffix('.PNG')), np.zeros((64, 96), np.uint8))
    with pytest.raises(DatasetError, match=r'a\.png does not exist \(it must end in \.png, in '):
        load(tmp_path, layout='folders')


@pytest.mark.parametrize('system', ['as it is', 'one that says nothing'])
def test_more_pictures_than_memory_are_told(camvid_like, tmp_path, monkeypatch, system):
    if system != 'as it is':
        monkeypatch.setattr(datasets, '_MEMORY_INFO', tmp_path / 'nothing')
    with pytest.raises(DatasetError, match='6 pictures of 10000000x10000000 take 2400000.0 GB, '
                                           'more than there is memory for: lower image_size'):
        load(camvid_like, size=(10 ** 7, 10 ** 7))


def test_more_pictures_than_memory_are_told_before_any_is_read(camvid_like, tmp_path,
                                                                monkeypatch):
    """Linux grants more memory than it has, so allocating it would not fail."""
    info = tmp_path / 'meminfo'
    monkeypatch.setattr(datasets, '_MEMORY_INFO', info)
    info.write_text('MemTotal:      1000 kB\nMemFree:     1 kB\nMemAvailable:     144 kB\n')
    assert len(load(camvid_like)) == 6  # which take 144 KiB
    info.write_text('MemTotal:      1000 kB\nMemFree:     1 kB\nMemAvailable:     143 kB\n')
    (camvid_like / 'train' / 'A_0.png').write_bytes(b'no image')
    with pytest.raises(DatasetError, match='6 pictures of 96x64 take .* than there is memory for'):
        load(camvid_like)
    info.unlink()
    with pytest.raises(DatasetError, match='6 pictures of 10000000x10000000 take .* there is mem'):
        load(camvid_like, size=(10 ** 7, 10 ** 7))


def test_a_containers_limit_counts(camvid_like, tmp_path, monkeypatch):
    """A process that exceeds it is killed. Cached files do not count: they make room."""
    monkeypatch.setattr(datasets, '_CONTAINER', tmp_path)
    assert len(load(camvid_like)) == 6, 'another system, or a version of cgroup without the files'
    needed, used, cached = 144 * 1024, 10 ** 6, 3 * 10 ** 5
    (tmp_path / 'memory.current').write_text(f'{used}\n')
    (tmp_path / 'memory.stat').write_text(
        f'file 900000\ninactive_file {cached - 1}\nactive_file 1\nworkingset_refault_file 9\n')
    for limit in ('max', needed + used - cached):
        (tmp_path / 'memory.max').write_text(f'{limit}\n')
        assert len(load(camvid_like)) == 6
    (tmp_path / 'memory.max').write_text(f'{needed + used - cached - 1}\n')
    with pytest.raises(DatasetError, match='6 pictures of 96x64 take .* than there is memory for'):
        load(camvid_like)


def test_data_sets_become_one_in_their_order(camvid_like):
    val, train = load(camvid_like, split='val'), load(camvid_like)
    both = load_dataset([find_files('camvid', camvid_like, split=split)
                         for split in ('val', 'train')], CAMVID, (96, 64))
    assert both.files == val.files + train.files
    assert torch.equal(both.images, torch.cat([val.images, train.images]))
    assert torch.equal(both.labels, torch.cat([val.labels, train.labels]))


def test_an_unreadable_file_is_named(camvid_like):
    (camvid_like / 'train' / 'B_1.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'train/B_1\.png cannot be read'):
        load(camvid_like)


def test_a_missing_folder_and_an_unknown_layout_are_named(tmp_path):
    with pytest.raises(DatasetError, match='no folder .*train'):
        load(tmp_path)
    (tmp_path / 'images').mkdir()
    with pytest.raises(DatasetError, match=r'no images \(layout folders; read are \.png, '):
        load(tmp_path, layout='folders')
    with pytest.raises(DatasetError, match="'voc' is not one of camvid, cityscapes, folders"):
        load(tmp_path, layout='voc')
