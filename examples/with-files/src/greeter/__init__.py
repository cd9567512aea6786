import os


def greeting() -> str:
    return f"{os.environ.get('GREETING', 'hi')} from an image"
