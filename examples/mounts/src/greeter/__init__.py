def greet(word):
    return f"{word}, first version"
