"""Single rays with a known answer: near on the left, far on the right."""

import numpy as np
import pytest

from bisenet_ros.costmap.ground_projection import RayGeometry
from bisenet_ros.costmap.obstacle_contact import (
    GROUND,
    OBSTACLE,
    after_last_ground,
    find_contacts,
    gaps_in_walls,
    hidden_samples,
    on_outlines,
    start_at_near_edge,
)


def all_stray(samples):
    return np.ones(len(samples), bool)


def walk(ray, are_stray=all_stray):
    """Return seen ground as 'g', contacts as 'X', obstacles whose contact is not seen as '?'."""
    samples = np.array(list(ray))[:, None]
    kinds = np.select(
        [samples == 'g', np.isin(samples, ['w', 'o'])], [np.uint8(GROUND), np.uint8(OBSTACLE)])
    ground, contacts, without_contact = find_contacts(kinds, are_stray)
    found = np.where(ground[:, 0], 'g', '.')
    found[contacts] = 'X'
    found[without_contact] = '?'
    return ''.join(found)


def test_what_hides_hides_to_the_next_ground():
    ground = np.array([list('gg....ggg...gg'), list('gg............'), list('gggggggggggggg')]).T
    starts = [(3, 0), (10, 0), (4, 1), (2, 1)]
    hidden = hidden_samples(
        np.array([sample * 3 + ray for sample, ray in starts]), ground == 'g')
    assert [''.join('.h'[value] for value in ray) for ray in hidden.T.astype(int)] == [
        '...hhh....hh..', '..hhhhhhhhhhhh', '..............']


def test_of_several_contacts_on_a_ray_the_nearest_are_one_wall():
    """A low fence with another behind it."""
    def gaps(contacts, classes):
        contacts = np.array([sample * 8 + ray for sample, ray in contacts])
        geometry = RayGeometry(np.arange(200) * 0.025, 0.003, 0.003)
        return list(zip(*gaps_in_walls(contacts, classes, geometry)))

    wall = np.ones((200, 8), np.uint8)
    assert gaps([(80, 0), (84, 1), (88, 2), (150, 0), (150, 1), (150, 2)], wall) == [
        (0, 1), (1, 2)]
    # Not one wall: another class, too far apart, a ray too far.
    classes = wall.copy()
    classes[84, 1] = 2
    assert gaps([(80, 0), (84, 1)], classes) == []
    assert gaps([(80, 0), (100, 1)], wall) == []
    assert gaps([(80, 0), (80, 3)], wall) == []


@pytest.mark.parametrize('ray, expected', [
    # A wall hides all behind it; ground stops a sample before its contact.
    ('gggggggwwwwwwww', 'gggggg.X.......'),
    # Ground seen over a low obstacle is ground.
    ('gggggggwwwwggggggg', 'gggggg.X...ggggggg'),
    # Too little of it is not: it may be stray pixels in the obstacle's face.
    ('gggggggwwwwgggggg', 'gggggg.X.........'),
    # An obstacle that stands on ground behind another one has a contact of its own.
    ('ggggggwwwwgggggggoooo', 'ggggg.X...gggggg.X...'),
    # Stray ground pixels in a wall's face are not ground.
    ('ggggggwwwwwggwwwwwww', 'ggggg.X.............'),
    ('ggggggwwwwwgwwwwgwww', 'ggggg.X.............'),
    # Stray obstacle pixels on the ground are no obstacles, and hide only their own samples.
    ('gggggggwggggggg', 'ggggggg.ggggggg'),
    ('gggggggwwggggggg', 'ggggggg..ggggggg'),
    # Undecided samples right before an obstacle do not hide its contact.
    ('gggggg..wwwwwww', 'gggggg..X......'),
    # The contact of an obstacle that begins at the image's border is not seen.
    ('.wwwwwwwgggggggg', '.?......gggggggg'),
    # The same right below the camera, where the robot itself is.
    ('wwwwwwwgggggggg', '?......gggggggg'),
    # The contact of an obstacle behind something that hangs is not seen either.
    ('ggggggg......wwwww', 'ggggggg......?....'),
    # Ground behind something that hangs is ground.
    ('ggggggg......gggggg', 'ggggggg......gggggg'),
    # An obstacle hides the contact of another one right behind it.
    ('ggggggwwwoooooo', 'ggggg.X........'),
    ('...............', '...............'),
])
def test_walks(ray, expected):
    assert walk(ray) == expected


@pytest.mark.parametrize('ray, expected', [
    ('gggggggoggggggggwwggggggg', 'gggggg.Xgggggggg..ggggggg'),
    ('gggggggggoog.....gggwggg', 'gggggggg.X..............'),
])
def test_short_obstacles_count_unless_they_are_stray_pixels(ray, expected):
    asked = []

    def are_stray(samples):
        asked.extend(samples)
        return np.array([ray[sample] == 'w' for sample in samples], bool)
    assert walk(ray, are_stray) == expected
    assert asked == [index for index, kind in enumerate(ray) if kind in 'wo']


@pytest.mark.parametrize('ground', range(5))
@pytest.mark.parametrize('gap', range(5))
def test_at_the_near_edge_no_obstacle_goes_unmarked(ground, gap):
    """Whether or not there is enough ground before it to tell where it stands."""
    ray = '..' + 'g' * ground + '.' * gap + 'w' * 9
    kinds = np.select([np.array(list(ray)) == 'g', np.array(list(ray)) == 'w'],
                      [np.uint8(GROUND), np.uint8(OBSTACLE)])[:, None]
    _, contacts, without_contact = find_contacts(kinds, all_stray)
    assert len(contacts) + len(without_contact) == 1
    assert len(contacts) or start_at_near_edge(without_contact, np.array([2])).all()


@pytest.mark.parametrize('ray, begins, stands', [
    ('ggggg........wwww', 5, True), ('ggggg' + '.' * 12 + 'www', 5, True),
    ('ggggg' + '.' * 13 + 'www', 5, False), ('.......wwww', 7, False),
    ('gggggXww.......wwww', 5, True), ('..ggg...ggg......wwwggg', 11, True)])
def test_what_has_no_contact_begins_after_the_last_ground(ray, begins, stands):
    start = ray.rindex('www') - (ray[ray.rindex('www') - 1] == 'w')
    ground = np.array([list(ray), ['.'] * len(ray)]).T == 'g'
    first, is_near = after_last_ground(np.array([2 * start, 2 * start + 1]), ground)
    assert first.tolist() == [2 * begins, 2 * start + 1]
    assert is_near.tolist() == [stands, False]


def test_what_begins_farther_out_is_not_at_the_near_edge():
    assert not start_at_near_edge(np.array([9]), np.array([2])).any()


def outline(rays, pixel_angle=0.002):
    """Return the rays (strings of equal length) whose contact, a capital, is on an outline."""
    outside = ['.' * len(rays[0])] * 3  # The real table has such rays, too.
    rays = [*rays, *outside]
    classes = np.array([list(ray.lower().encode()) for ray in rays], np.uint8).T
    contacts = np.array([[letter.isupper() for letter in ray] for ray in rays]).T
    contacts = np.flatnonzero(contacts)
    ranges = 1 + 0.025 * np.arange(len(rays[0]))
    flags = on_outlines(contacts, classes, RayGeometry(ranges, 0.003, pixel_angle))
    return {int(contact) % len(rays) for contact in contacts[flags]}


def test_a_contact_beside_a_nearer_one_of_the_same_thing_is_its_outline():
    pole = 'ggggPppppppppppppppp'
    beside = 'ggggggggggggggPppppp'
    assert outline([pole, pole, beside]) == {2}
    assert outline([beside, pole]) == {0}


def test_an_outline_is_as_wide_as_a_pixel():
    pole = 'ggggPppppppppppppppppppppppp'
    beside = 'gggggggggggggggggggggPpppppp'
    assert outline([pole, beside, beside, beside], pixel_angle=0.002) == {1}
    assert outline([pole, beside, beside, beside], pixel_angle=0.008) == {1, 2, 3}


def test_a_slanted_wall_is_no_outline():
    rays = [('g' * (4 + 2 * ray) + 'W').ljust(24, 'w') for ray in range(8)]
    assert outline(rays) == set()


def test_another_thing_behind_is_no_outline():
    assert outline(['ggggPppppppppppppppp', 'ggggggggggggggCccccc']) == set()


def test_a_thing_one_ray_wide_is_no_outline():
    assert outline(['g' * 20, 'ggggPppppppppppppppp', 'g' * 20]) == set()
