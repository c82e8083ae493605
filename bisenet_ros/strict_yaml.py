"""YAML in which nothing is overwritten without a word."""

import yaml


class _UniqueKeyLoader(yaml.SafeLoader):
    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):  # else the error is YAML's
            # Of this mapping, not of what << merges into it.
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            names = [key.value for key in keys]
            for index, key in enumerate(keys):
                if key.value in names[:index]:
                    raise yaml.constructor.ConstructorError(
                        problem=f'{key.value!r} is there twice, again in line '
                                f'{key.start_mark.line + 1}')
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> object:
    """
    Return what yaml.safe_load does.

    :raises yaml.YAMLError: for all that is wrong, also where that raises something else, and for a
        key that a mapping has twice, of which yaml.safe_load takes the last.
    """
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # a 13th month, a thousand brackets, a tag that does not fit
        raise yaml.YAMLError(str(error) or type(error).__name__) from error
